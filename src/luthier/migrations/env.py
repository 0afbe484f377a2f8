"""What alembic runs: our connection and its transaction, decided by `luthier.migrations.upgrade`."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from luthier.database import Row, UtcTime


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """How a column's type is written into a new step: it must still read the same when our own types have other names."""
    return "sa.BigInteger()" if kind == "type" and isinstance(item, UtcTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_item=render_item,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
