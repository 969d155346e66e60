-- match_images for a query text. The search_path is filled in when the function is created, see match_images.
CREATE OR REPLACE FUNCTION search_images(
    query text,
    match_threshold double precision DEFAULT 0,
    match_count integer DEFAULT 10
)
RETURNS TABLE (id bigint, image text, similarity double precision)
LANGUAGE sql
STABLE
PARALLEL SAFE
ROWS 10
SET search_path = {search_path}
AS $$
    SELECT * FROM match_images(text_embedding(query), match_threshold, match_count);
$$;

COMMENT ON FUNCTION search_images(text, double precision, integer) IS
    'match_images(text_embedding(query), match_threshold, match_count).';
