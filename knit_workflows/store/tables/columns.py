"""Columns as all tables have them, and the metadata that collects the tables."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy
from sqlalchemy import BigInteger, Column, ForeignKey, Identity, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlmodel import Field, SQLModel

NAMING: Final = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}

metadata: Final = MetaData(naming_convention=NAMING)
_SERIALS: Final = frozenset({"tag_id", "input_id", "output_id"})


class Table(SQLModel):
    """What all tables are."""

    metadata = metadata


def serial() -> Any:
    """Gives the column: a number that the database counts."""
    return Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))


def uuid_key() -> Any:
    """Gives the column: a UUID that knit chooses, the primary key."""
    return Field(sa_column=Column(Uuid(as_uuid=False), primary_key=True))


def reference(target: str, *, key: bool = False) -> Any:
    """Gives the column: a reference to a key of another table; `key`: part of the primary key."""
    kind: Any = BigInteger if target.split(".")[1] in _SERIALS else Uuid(as_uuid=False)
    return Field(sa_column=Column(kind, ForeignKey(target), primary_key=key, nullable=False))


def instant(*, nullable: bool = False) -> Any:
    """Gives the column: an aware instant in whole milliseconds."""
    kind = TIMESTAMP(timezone=True, precision=3)
    return Field(sa_column=Column(kind, nullable=nullable))


def text(*, nullable: bool = False) -> Any:
    """Gives the column: a text."""
    return Field(sa_column=Column(Text, nullable=nullable))


def text_or_nothing() -> Any:
    """Gives the column: a text, empty unless it is set."""
    return Field(sa_column=Column(Text, nullable=False, server_default=sqlalchemy.text("''")))


def json(default: str) -> Any:
    """Gives the column: a JSON value with this default."""
    return Field(
        sa_column=Column(JSONB, nullable=False, server_default=sqlalchemy.text(f"'{default}'"))
    )


def texts() -> Any:
    """Gives the column: a list of texts, empty unless it is set."""
    return Field(
        sa_column=Column(ARRAY(Text), nullable=False, server_default=sqlalchemy.text("'{}'"))
    )
