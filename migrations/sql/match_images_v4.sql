-- The images nearest to a query vector, best first, by cosine similarity (1 - cosine distance).
--
-- The innermost queries have the one shape that an ivfflat or hnsw index can serve: ORDER BY the distance operator,
-- LIMIT, and nothing else. Threshold and tie-break stand outside them. PL/pgSQL with a custom plan lets the planner see
-- the values, however the function is called. The iterative scan goes on past the first candidates until enough rows
-- are found; it returns them roughly in order, so that they are ordered again outside. Without enable_seqscan = off the
-- planner, whose costs for a vector index are rough, would read a small or freshly filled table from end to end
-- instead. It also makes every plan without an index look expensive enough for just-in-time compilation, which would
-- take longer than the search: hence jit = off.
--
-- The index is over the vectors, or over their halves as halfvec, which takes half the memory. Rounded distances choose
-- the candidates then, a few more than match_count, and the stored vectors rank them. The catalog tells which of the
-- two the index is, so that function and index cannot disagree; without an index all rows are read.
--
-- The search_path is filled in when the function is created: the collection's schema, where `images` is, and that of the
-- extension, where `<=>` is. Callers may have any search_path or none, as in pg_dump's restore. The extension's schema may
-- hold another collection, so a name that is looked up in the catalog is checked to belong to this one.
--
-- pgvector adds up the cosine distance in single precision: squares of numbers under 1e-19 or above 1e19 leave its range,
-- and the distance is NaN. Hence the limits on the length of the query vector. A CHECK limits the stored ones; rows from
-- before it may break it, and are left out.
--
-- The images have the vectors of one model, the current one, in the column `embedding`; those of another, with the id k,
-- may be beside them in `embedding_<k>`, where match_images_<k> searches. Function, column, index and the number of
-- numbers are filled in when the function is created. When another model becomes the current one, columns are renamed in
-- a transaction that locks the table. A statement that began before it and comes here after it still sees the old model
-- as the current one, whose text_embedding it has perhaps called: it gets the images by the old model's vectors. Reading
-- no row locks the table, so that the change comes before the look at the catalog or after the end of the statement.
CREATE OR REPLACE FUNCTION {function}(
    query_embedding vector,
    match_threshold double precision DEFAULT 0,
    match_count integer DEFAULT 10
)
RETURNS TABLE (id bigint, image text, similarity double precision)
LANGUAGE plpgsql
STABLE
PARALLEL SAFE
ROWS 10
SET search_path = {search_path}
SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off
SET jit = off
SET ivfflat.iterative_scan = relaxed_order
SET hnsw.iterative_scan = relaxed_order
AS $$
#variable_conflict use_column
DECLARE
    max_count CONSTANT integer := 10000;
    row_limit CONSTANT integer := least(coalesce(match_count, 10), max_count);
    threshold CONSTANT double precision := coalesce(match_threshold, 0);
    candidates CONSTANT integer := row_limit + greatest(30, row_limit / 5);
    query_half halfvec({dimension});
    earlier text;
BEGIN
    PERFORM FROM images LIMIT 0;
    IF '{function}' = 'match_images' THEN
        SELECT format('%I.match_images_%s', current_schema(), model.id) INTO earlier
        FROM embedding_models AS model WHERE model.current;
        IF to_regprocedure(earlier || '(vector, double precision, integer)') IS NOT NULL THEN
            RETURN QUERY EXECUTE format('SELECT * FROM %s($1, $2, $3)', earlier)
                USING query_embedding, match_threshold, match_count;
            RETURN;
        END IF;
    END IF;

    IF query_embedding IS NULL THEN
        RAISE EXCEPTION '{function}: query_embedding is NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a vector of {dimension} numbers, such as text_embedding(''a red car'').';
    END IF;
    IF vector_dims(query_embedding) <> {dimension} THEN
        RAISE EXCEPTION '{function}: query_embedding has % numbers, the images have {dimension}', vector_dims(query_embedding)
            USING ERRCODE = 'data_exception',
                  HINT = 'Embed the query with the model that the images were embedded with.';
    END IF;
    IF vector_norm(query_embedding) = 0 THEN
        RAISE EXCEPTION '{function}: query_embedding is the zero vector, which is similar to nothing'
            USING ERRCODE = 'data_exception',
                  HINT = 'Embed the query with the model that the images were embedded with.';
    END IF;
    IF vector_norm(query_embedding) NOT BETWEEN 1e-15 AND 1e15 THEN
        RAISE EXCEPTION '{function}: query_embedding has the length %, it must be between 1e-15 and 1e15',
            vector_norm(query_embedding)
            USING ERRCODE = 'data_exception',
                  HINT = 'Pass l2_normalize(query_embedding).';
    END IF;
    IF row_limit < 0 THEN
        RAISE EXCEPTION '{function}: match_count is %, it must be 0 or more', match_count
            USING ERRCODE = 'invalid_row_count_in_limit_clause';
    END IF;

    IF EXISTS (
        SELECT FROM pg_index
        WHERE indexrelid = to_regclass('{index}') AND indrelid = to_regclass('images')
        AND indisvalid AND indexprs IS NOT NULL
    ) THEN
        -- Of length 1, so that it does not leave the range of half precision.
        query_half := l2_normalize(query_embedding)::halfvec({dimension});
        RETURN QUERY
        SELECT ranked.id, ranked.image, 1 - ranked.distance
        FROM (
            SELECT nearest.id, nearest.image, nearest.embedding <=> query_embedding AS distance
            FROM (
                SELECT images.id, images.image, images.{column} AS embedding
                FROM images
                ORDER BY images.{column}::halfvec({dimension}) <=> query_half
                LIMIT candidates
            ) AS nearest
            ORDER BY distance, nearest.id
            LIMIT row_limit
        ) AS ranked
        WHERE 1 - ranked.distance >= threshold AND ranked.distance <> 'NaN'
        ORDER BY ranked.distance, ranked.id;
        RETURN;
    END IF;

    RETURN QUERY
    SELECT nearest.id, nearest.image, 1 - nearest.distance
    FROM (
        SELECT images.id, images.image, images.{column} <=> query_embedding AS distance
        FROM images
        ORDER BY images.{column} <=> query_embedding
        LIMIT row_limit
    ) AS nearest
    WHERE 1 - nearest.distance >= threshold AND nearest.distance <> 'NaN'
    ORDER BY nearest.distance + 0, nearest.id;
END
$$;

COMMENT ON FUNCTION {function}(vector, double precision, integer) IS
    'Images nearest to query_embedding by cosine similarity, at least match_threshold, at most match_count (10,000), best first.';
