-- The id of the model whose vectors are in images.embedding. A statement that began before the model was changed still
-- sees the earlier one as the current one in the table embedding_models, but the new one's vectors in the column, since a
-- changed table has no earlier form: hence the change writes the id in here, where every statement sees it at once. A
-- NULL in its place leaves it to the table, as in a collection that was never switched. The search_path is filled in when
-- the function is created, see match_images.
CREATE OR REPLACE FUNCTION current_model_id()
RETURNS integer
LANGUAGE sql
STABLE
PARALLEL SAFE
SET search_path = {search_path}
AS $$
    SELECT coalesce({pinned}, (SELECT id FROM embedding_models WHERE current));
$$;

COMMENT ON FUNCTION current_model_id() IS
    'The id of the model whose vectors are in images.embedding; NULL in a collection without one.';
