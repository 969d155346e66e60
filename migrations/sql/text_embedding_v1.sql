-- The vector of a query text, from the cache that `searchdb embed`, the CLI and the page fill. SQL itself cannot run
-- CLIP: a text not yet embedded is an error that names the command which embeds it.
CREATE FUNCTION text_embedding(query text)
RETURNS vector(512)
LANGUAGE plpgsql
STABLE
PARALLEL SAFE
STRICT
AS $$
#variable_conflict use_column
DECLARE
    found vector(512);
BEGIN
    SELECT cached.embedding INTO found
    FROM query_embeddings AS cached
    JOIN embedding_models AS model ON model.id = cached.embedding_model_id
    WHERE cached.query = text_embedding.query AND model.current;

    IF found IS NULL THEN
        RAISE EXCEPTION 'text_embedding: no vector is stored for %', quote_literal(text_embedding.query)
            USING ERRCODE = 'no_data_found',
                  HINT = format('Run: searchdb embed %s', '''' || replace(text_embedding.query, '''', '''\''''') || '''');
    END IF;
    RETURN found;
END
$$;

COMMENT ON FUNCTION text_embedding(text) IS
    'The 512-number vector of a query text, as stored by `searchdb embed`; an error when it is not stored.';
