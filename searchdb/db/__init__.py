"""PostgreSQL: connections, tables, the embedded server, and the collection's current model."""
