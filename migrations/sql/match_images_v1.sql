-- The pictures nearest to a query vector, best first, by cosine similarity (1 - cosine distance).
--
-- The inner query is the one shape that an ivfflat or hnsw index can serve: ORDER BY the distance operator, LIMIT, and
-- nothing else. Threshold and tie-break stand outside it. PL/pgSQL with a custom plan lets the planner see the values,
-- however the function is called. The iterative scan goes on past the first probes until match_count rows are found;
-- it returns them roughly in order, so that they are ordered again outside. Without enable_seqscan = off the planner,
-- whose costs for a vector index are rough, would read a small or freshly filled table from end to end instead.
CREATE FUNCTION match_images(
    query_embedding vector(512),
    match_threshold double precision DEFAULT 0,
    match_count integer DEFAULT 10
)
RETURNS TABLE (id bigint, image text, similarity double precision)
LANGUAGE plpgsql
STABLE
PARALLEL SAFE
ROWS 10
SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off
SET ivfflat.iterative_scan = relaxed_order
SET hnsw.iterative_scan = relaxed_order
AS $$
#variable_conflict use_column
DECLARE
    max_count CONSTANT integer := 10000;
    row_limit CONSTANT integer := least(coalesce(match_count, 10), max_count);
    threshold CONSTANT double precision := coalesce(match_threshold, 0);
BEGIN
    IF query_embedding IS NULL THEN
        RAISE EXCEPTION 'match_images: query_embedding is NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a vector of 512 numbers, such as text_embedding(''a red car'').';
    END IF;
    IF vector_dims(query_embedding) <> 512 THEN
        RAISE EXCEPTION 'match_images: query_embedding has % numbers, the pictures have 512', vector_dims(query_embedding)
            USING ERRCODE = 'data_exception',
                  HINT = 'Embed the query with the model that the pictures were embedded with.';
    END IF;
    IF vector_norm(query_embedding) = 0 THEN
        RAISE EXCEPTION 'match_images: query_embedding is the zero vector, which is similar to nothing'
            USING ERRCODE = 'data_exception',
                  HINT = 'Embed the query with the model that the pictures were embedded with.';
    END IF;
    IF row_limit < 0 THEN
        RAISE EXCEPTION 'match_images: match_count is %, it must be 0 or more', match_count
            USING ERRCODE = 'invalid_row_count_in_limit_clause';
    END IF;

    RETURN QUERY
    SELECT nearest.id, nearest.image, 1 - nearest.distance
    FROM (
        SELECT images.id, images.image, images.embedding <=> query_embedding AS distance
        FROM images
        ORDER BY images.embedding <=> query_embedding
        LIMIT row_limit
    ) AS nearest
    WHERE 1 - nearest.distance >= threshold
    ORDER BY nearest.distance + 0, nearest.id;
END
$$;

COMMENT ON FUNCTION match_images(vector, double precision, integer) IS
    'Pictures nearest to query_embedding by cosine similarity, at least match_threshold, at most match_count (10,000), best first.';
