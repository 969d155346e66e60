-- The words of a picture's description and tags, for the full-text index. 'english' is named, and the tags are joined by
-- their own rows: what depends on a session's settings, as array_to_string might, may not stand in an index.
CREATE FUNCTION image_words(description text, tags text[])
RETURNS tsvector
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $$
BEGIN
    RETURN to_tsvector(
        'pg_catalog.english',
        coalesce(description, '') || ' ' || coalesce(array_to_string(tags, ' '), '')
    );
END
$$;

COMMENT ON FUNCTION image_words(text, text[]) IS
    'Full text of description and tags, in English: image_words(description, tags) @@ websearch_to_tsquery(''english'', ''...'').';
