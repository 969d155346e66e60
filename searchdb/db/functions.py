"""The SQL functions: installs them in the collection's schema, and compares those installed with their definitions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.bundled import migrations_folder
from searchdb.db.vectors import SIGNATURE, VectorColumn
from searchdb.records import DEFAULT_DIMENSION

FUNCTIONS: Mapping[str, str] = {
    "image_words": "image_words_v1",
    "match_images": "match_images_v4",
    "text_embedding": "text_embedding_v3",
    "search_images": "search_images_v2",
}
"""The functions and the files in migrations/sql that define them, in the order in which they are created."""
EXTENSION_SCHEMA = (
    "(SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector')"
)
"""SQL for the name of the extension's schema; NULL without the extension."""

_CURRENT = VectorColumn(model_id=None, dimension=DEFAULT_DIMENSION)
"""Names the column of the current model; its dimension is not used."""

_SEARCH_PATH = f"concat_ws(', ', quote_ident(%s), quote_ident(nullif({EXTENSION_SCHEMA}, %s)), 'pg_temp')"
"""SQL for the functions' search_path, with the SQL for the collection's schema in two places."""

# The search_path and the number of numbers are known only in the database. The tuned search depth is stored with
# match_images: it is kept.
_INSTALL = """
DO $install$
DECLARE
    definition CONSTANT text := $definition${definition}$definition$;
    dimension CONSTANT integer := (
        SELECT atttypmod FROM pg_attribute WHERE attrelid = to_regclass('images') AND attname = '{column}'
    );
    tuned text[];
    setting text;
BEGIN
    -- Loads the extension's library; before that, only a superuser may use its settings in a function.
    PERFORM '[1]'::vector;
    SELECT array_agg(each) INTO tuned FROM pg_proc, unnest(proconfig) AS each
    WHERE proname = '{function}' AND pronamespace = quote_ident(current_schema())::regnamespace
    AND split_part(each, '=', 1) IN ('ivfflat.probes', 'hnsw.ef_search');
    EXECUTE replace(replace(definition, '{search_path}', {concatenated_path}), '{dimension}', dimension::text);
    FOREACH setting IN ARRAY coalesce(tuned, ARRAY[]::text[]) LOOP
        EXECUTE format(
            'ALTER FUNCTION %I.{function}{signature} SET %s = %s',
            current_schema(), split_part(setting, '=', 1), split_part(setting, '=', 2)
        );
    END LOOP;
END
$install$
"""

_INSTALLED = text(
    f"""
    SELECT proname, prosrc, coalesce(proconfig, ARRAY[]::text[]) AS settings,
        {_SEARCH_PATH % ("n.nspname", "n.nspname")} AS search_path,
        (SELECT atttypmod::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
         WHERE c.relname = 'images' AND c.relnamespace = n.oid AND attname = 'embedding') AS dimension
    FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
    WHERE n.nspname = :schema AND proname = ANY (:names)
    """  # noqa: S608 - our own SQL
)


def installation(name: str, column: VectorColumn = _CURRENT) -> str:
    """Return the statement that creates or replaces the function that a file in migrations/sql defines.

    It works with the first schema of the search_path, which must be the collection's, and keeps what was tuned. Where
    the function reads vectors, it reads those of a column, which must exist, and has the name that goes with it.
    """
    definition = _definition(name, column).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    path = _SEARCH_PATH % ("current_schema()", "current_schema()")
    statement = _of_column(_INSTALL.replace("{signature}", SIGNATURE), column)
    return statement.replace("{concatenated_path}", path).replace("{definition}", definition)


def outdated_functions(connection: Connection, schema: str) -> Sequence[str]:
    """Return the names of the functions that a schema lacks, or has with another definition."""
    rows = connection.execute(_INSTALLED, {"schema": schema, "names": list(FUNCTIONS)}).all()
    return [
        name
        for name, file in FUNCTIONS.items()
        if not any(row.proname == name and _is_current(row, _definition(file)) for row in rows)
    ]


def install_functions(connection: Connection, names: Sequence[str]) -> None:
    """Create or replace functions in the first schema of the search_path."""
    for name in names:
        connection.execute(text(installation(FUNCTIONS[name])))


def _is_current(row: sa.Row[*tuple[object, ...]], definition: str) -> bool:
    """Whether an installed function has the definition's body and settings; it may have tuned ones beside them."""
    head, body, _ = definition.split("$$", 2)
    body = body.replace("{dimension}", str(row.dimension))
    wanted = dict(re.findall(r"^SET (\S+) = (.+)$", head, re.MULTILINE))
    if "search_path" in wanted:
        wanted["search_path"] = row.search_path
    settings = dict(each.split("=", 1) for each in row.settings)
    return row.prosrc == body and wanted.items() <= settings.items()


def _definition(name: str, column: VectorColumn = _CURRENT) -> str:
    definition = (migrations_folder() / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    return _of_column(definition, column)


def _of_column(sql: str, column: VectorColumn) -> str:
    for placeholder, value in (("{function}", column.function), ("{column}", column.name), ("{index}", column.index)):
        sql = sql.replace(placeholder, value)
    return sql
