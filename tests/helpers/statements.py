"""Records the statements that are executed, and shows which of them read a whole table."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

Executed = list[tuple[str, Any]]
"""Statements and their parameters."""


@contextmanager
def executed_on(engine: Engine) -> Generator[Executed]:
    """Yield the list of statements, which grows while the block runs."""
    statements: Executed = []

    def record(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)


def reading_all_of(table: str, connection: Connection, statements: Executed) -> list[str]:
    """Return the statements whose plan reads every row of a table, or every entry of one of its indexes."""
    found: list[str] = []
    for statement, parameters in statements:
        if statement.split(None, 1)[0].upper() not in {"SELECT", "WITH", "INSERT"}:
            continue
        [plan] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
        if _reads_all(plan["Plan"], table):
            found.append(statement)
    return found


def _reads_all(node: dict[str, Any], table: str, *, limited: bool = False) -> bool:
    """Whether a node of a plan, or one below it, reads a whole table.

    A LIMIT, or an EXISTS, ends a scan, but not that below a sort.
    """
    limited = limited or node["Node Type"] == "Limit" or node.get("Parent Relationship") == "InitPlan"
    limited = limited and node["Node Type"] not in {"Sort", "Aggregate", "Hash"}
    whole = node["Node Type"] == "Seq Scan" or (
        node["Node Type"] in {"Index Scan", "Index Only Scan"} and not {"Index Cond", "Order By"} & node.keys()
    )
    if whole and node.get("Relation Name") == table and not limited:
        return True
    return any(_reads_all(below, table, limited=limited) for below in node.get("Plans", ()))
