"""What a revision does: the statements in the file beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import op


def beside(module: str) -> Callable[[], None]:
    """Gives the `upgrade` of a revision: the file of the same name that ends in `.sql`, at once."""

    def upgrade() -> None:
        statements = Path(module).with_suffix(".sql").read_text(encoding="utf-8")
        op.get_bind().exec_driver_sql(statements)

    return upgrade
