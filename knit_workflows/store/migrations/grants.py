"""What the role of knit's processes may do, which owns nothing: rows, and no tables."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from knit_workflows.store.migrations import RoleRefused
from knit_workflows.store.tables import metadata
from knit_workflows.store.tables.access import Audit

APPEND_ONLY: Final = frozenset({Audit.__tablename__})
"""Tables whose rows the role may add and read, but neither change nor remove."""

_FACTS: Final = text(
    "SELECT rolsuper, pg_has_role(oid, current_user, 'MEMBER') AS owns, current_schema() AS schema"
    "  FROM pg_roles WHERE rolname = :role"
)


def grant(connection: Connection, role: str) -> None:
    """Grants the role what it needs, and takes what it must not have; may be repeated.

    Raises:
        RoleRefused: there is no such role, or nothing could be kept from it.
    """
    facts = connection.execute(_FACTS, {"role": role}).one_or_none()
    if facts is None:
        raise RoleRefused(
            f"the database has no role {role!r}; make it (CREATE ROLE … LOGIN PASSWORD …), "
            "then migrate again"
        )
    if facts.rolsuper or facts.owns:
        raise RoleRefused(
            f"nothing could be kept from the role {role!r}, which is a superuser or may act as the "
            "one that migrates; name a role that is neither"
        )
    quoted = connection.dialect.identifier_preparer.quote_identifier
    name, schema = quoted(role), quoted(facts.schema)
    statements = [f"GRANT USAGE ON SCHEMA {schema} TO {name}"]
    for table in metadata.tables:
        full = f"{schema}.{quoted(table)}"
        rights = "SELECT, INSERT" if table in APPEND_ONLY else "SELECT, INSERT, UPDATE, DELETE"
        statements += [f"REVOKE ALL ON {full} FROM {name}", f"GRANT {rights} ON {full} TO {name}"]
    statements += [
        f"GRANT SELECT ON {schema}.alembic_version TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}",
    ]
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))
