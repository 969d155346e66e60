"""The SQL functions: installs them in the collection's schema, and compares those installed with their definitions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.bundled import migrations_folder

FUNCTIONS: Mapping[str, str] = {
    "image_words": "image_words_v1",
    "match_images": "match_images_v3",
    "text_embedding": "text_embedding_v2",
    "search_images": "search_images_v2",
}
"""The functions and the files in migrations/sql that define them, in the order in which they are created."""
EXTENSION_SCHEMA = (
    "(SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector')"
)
"""SQL for the name of the extension's schema; NULL without the extension."""

_SEARCH_PATH = f"concat_ws(', ', quote_ident(%s), quote_ident(nullif({EXTENSION_SCHEMA}, %s)), 'pg_temp')"
"""SQL for the functions' search_path, with the SQL for the collection's schema in two places."""

# The search_path is known only in the database. The tuned search depth is stored with match_images: it is kept.
_INSTALL = """
DO $install$
DECLARE
    definition CONSTANT text := $definition${definition}$definition$;
    tuned text[];
    setting text;
BEGIN
    -- Loads the extension's library; before that, only a superuser may use its settings in a function.
    PERFORM '[1]'::vector;
    SELECT array_agg(each) INTO tuned FROM pg_proc, unnest(proconfig) AS each
    WHERE proname = 'match_images' AND pronamespace = quote_ident(current_schema())::regnamespace
    AND split_part(each, '=', 1) IN ('ivfflat.probes', 'hnsw.ef_search');
    EXECUTE replace(definition, '{search_path}', {concatenated_path});
    FOREACH setting IN ARRAY coalesce(tuned, ARRAY[]::text[]) LOOP
        EXECUTE format(
            'ALTER FUNCTION %I.match_images(vector, double precision, integer) SET %s = %s',
            current_schema(), split_part(setting, '=', 1), split_part(setting, '=', 2)
        );
    END LOOP;
END
$install$
"""

_INSTALLED = text(
    f"""
    SELECT proname, prosrc, coalesce(proconfig, ARRAY[]::text[]) AS settings,
        {_SEARCH_PATH % ("n.nspname", "n.nspname")} AS search_path
    FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
    WHERE n.nspname = :schema AND proname = ANY (:names)
    """  # noqa: S608 - our own SQL
)


def installation(name: str) -> str:
    """Return the statement that creates or replaces the function that a file in migrations/sql defines.

    It works with the first schema of the search_path, which must be the collection's, and keeps what was tuned.
    """
    definition = _definition(name).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    path = _SEARCH_PATH % ("current_schema()", "current_schema()")
    return _INSTALL.replace("{concatenated_path}", path).replace("{definition}", definition)


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
    wanted = dict(re.findall(r"^SET (\S+) = (.+)$", head, re.MULTILINE))
    if "search_path" in wanted:
        wanted["search_path"] = row.search_path
    settings = dict(each.split("=", 1) for each in row.settings)
    return row.prosrc == body and wanted.items() <= settings.items()


def _definition(name: str) -> str:
    return (migrations_folder() / "sql" / f"{name}.sql").read_text(encoding="utf-8")
