-- The vector of a query text, from the cache that `searchdb embed`, the CLI and the page fill. SQL itself cannot run
-- a model: a text not yet embedded is an error that names the command which embeds it. The cache has texts in NFC, the form
-- that most keyboards type; macOS and some programs pass accents as separate characters. The search_path is filled in when
-- the function is created, see match_images.
CREATE OR REPLACE FUNCTION text_embedding(query text)
RETURNS vector
LANGUAGE plpgsql
STABLE
PARALLEL SAFE
STRICT
SET search_path = {search_path}
AS $$
#variable_conflict use_column
DECLARE
    found vector;
BEGIN
    SELECT cached.embedding INTO found
    FROM query_embeddings AS cached
    JOIN embedding_models AS model ON model.id = cached.embedding_model_id
    WHERE cached.query = normalize(text_embedding.query, NFC) AND model.current;

    IF found IS NULL THEN
        RAISE EXCEPTION 'text_embedding: no vector is stored for %', quote_literal(text_embedding.query)
            USING ERRCODE = 'no_data_found',
                  HINT = format('Run: searchdb embed %s', '''' || replace(text_embedding.query, '''', '''\''''') || '''');
    END IF;
    RETURN found;
END
$$;

COMMENT ON FUNCTION text_embedding(text) IS
    'The vector of a query text by the current model, as stored by `searchdb embed`; an error when it is not stored.';
