"""Reads what `pg_dump -F tar` has written: the rows of tables, without any program of PostgreSQL.

Such an archive has a script, `restore.sql`, whose COPY statements say which file has the rows of
which table, with which columns. Only those statements are read of it; nothing is executed.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from knit_workflows.backup.knitfab.copy_text import read_row
from knit_workflows.backup.problems import BackupProblem, Damaged

SCRIPT: Final = "restore.sql"
_CONTENTS: Final = "toc.dat"
_CHUNK: Final = 1 << 20
_LARGEST: Final = 1 << 40
"""Bytes of a dump, uncompressed: what has more is no database of a Knitfab."""
_LARGEST_SCRIPT: Final = 64 << 20
_LONGEST_LINE: Final = 1 << 28
_END: Final = b"\\."
_NAME: Final = r'(?:"(?:[^"]|"")+"|[^\s".(),;\']+)'
_COPY: Final = re.compile(
    rf"COPY (?:(?P<schema>{_NAME})\.)?(?P<table>{_NAME}) \((?P<columns>.*)\) "
    r"FROM '\$\$PATH\$\$/(?P<file>[0-9]+\.dat)';"
)
_COLUMN: Final = re.compile(rf"\s*({_NAME})\s*(?:,|$)")
_ENCODING: Final = re.compile(r"SET client_encoding = '(.*)';")


@dataclass(frozen=True)
class Table:
    """The rows of a table: columns in their order, and the file that has them."""

    columns: tuple[str, ...]
    file: str


class Dump:
    """A dump that is open. `at`: when it was taken; `digest`: that of its content."""

    def __init__(self, archive: tarfile.TarFile, digest: str, shown: str) -> None:
        """Reads which tables there are; raises Damaged."""
        self.digest = digest
        self.shown = shown
        self._archive = archive
        try:
            self._members = {one.name: one for one in archive.getmembers() if one.isreg()}
        except (tarfile.TarError, ValueError) as cause:
            raise self.damaged(f"it is no archive of pg_dump: {cause}") from cause
        contents = self._members.get(_CONTENTS)
        if contents is None or SCRIPT not in self._members:
            raise self.damaged(f"it has no {_CONTENTS} and {SCRIPT}, as `pg_dump -F tar` writes")
        try:
            self.at = datetime.fromtimestamp(int(contents.mtime), UTC)
        except (ValueError, OSError, OverflowError) as cause:
            raise self.damaged(f"the time of its {_CONTENTS} is none: {cause}") from cause
        self.tables = self._tables()

    def damaged(self, reason: str) -> Damaged:
        """Gives what to raise if this dump is not what it should be."""
        return Damaged(
            f"the dump {self.shown} cannot be read",
            reason=reason,
            advice="take it again: pg_dump -F tar | gzip, as Knitfab's backup/db.sh does",
        )

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
        """Gives these columns of all rows; none of a table that there is not. Raises Damaged."""
        found = self.tables.get(table)
        if found is None:
            return
        missing = [one for one in columns if one not in found.columns]
        if missing:
            raise self.damaged(f"the table {table} has no column {missing[0]}")
        places = [found.columns.index(one) for one in columns]
        for line in self.lines(table):
            try:
                fields = read_row(line)
            except ValueError as cause:
                raise self.damaged(f"a row of {table} is not UTF-8") from cause
            if len(fields) != len(found.columns):
                raise self.damaged(
                    f"a row of {table} has {len(fields)} fields, not {len(found.columns)}"
                )
            yield tuple(fields[place] for place in places)

    def lines(self, table: str) -> Iterator[bytes]:
        """Gives the rows of a table as they are, without the ends of lines; raises Damaged."""
        file = self.tables[table].file
        content = self._open(file)
        while line := content.readline(_LONGEST_LINE):
            if not line.endswith(b"\n"):
                break
            if line[:-1] == _END:
                return
            yield line[:-1]
        raise self.damaged(f"{file}, with the rows of {table}, is cut")

    def _open(self, file: str) -> IO[bytes]:
        content = self._archive.extractfile(self._members[file]) if file in self._members else None
        if content is None:
            raise self.damaged(f"it has no {file}, which {SCRIPT} names")
        return content

    def _tables(self) -> dict[str, Table]:
        if self._members[SCRIPT].size > _LARGEST_SCRIPT:
            raise self.damaged(f"its {SCRIPT} has more than {_LARGEST_SCRIPT:,} bytes")
        found: dict[str, Table] = {}
        for line in self._open(SCRIPT).read().decode("utf-8", "replace").splitlines():
            encoding = _ENCODING.fullmatch(line)
            if encoding is not None and encoding[1] != "UTF8":
                raise self.damaged(f"its texts are {encoding[1]}, not UTF8")
            copy = _COPY.fullmatch(line)
            if copy is None:
                continue
            name = _unquoted(copy["table"])
            if name in found:
                raise self.damaged(f"there are two tables {name}")
            columns = tuple(map(_unquoted, _COLUMN.findall(copy["columns"])))
            found[name] = Table(columns, copy["file"])
        return found


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


@contextmanager
def open_dump(path: Path) -> Iterator[Dump]:
    """Opens `dump.tar.gz`: unpacked once, into a file without a name that goes with this process.

    Raises:
        Damaged: it is cut, or no dump.
        BackupProblem: it cannot be read, or there is no room for it.
    """
    with tempfile.TemporaryFile() as spool:
        digest = _unpacked(path, spool)
        spool.seek(0)
        try:
            archive = tarfile.open(fileobj=spool, mode="r:")  # noqa: SIM115  closed below
        except (tarfile.TarError, ValueError, EOFError) as cause:
            raise Damaged(
                f"the dump {path} cannot be read",
                reason=f"it is no archive of pg_dump: {cause}",
                advice="take it again: pg_dump -F tar | gzip, as Knitfab's backup/db.sh does",
            ) from cause
        with archive:
            yield Dump(archive, digest, str(path))


def _unpacked(path: Path, spool: IO[bytes]) -> str:
    digest = hashlib.sha256()
    size = 0
    for chunk in gunzipped(path):
        digest.update(chunk)
        size += len(chunk)
        if size > _LARGEST:
            raise Damaged(f"{path} has more than {_LARGEST:,} bytes")
        try:
            spool.write(chunk)
        except OSError as cause:
            raise BackupProblem(
                f"there is no room to unpack {path}",
                reason=f"{tempfile.gettempdir()}: {cause.strerror}",
                advice="name a folder with more room in TMPDIR",
            ) from cause
    return digest.hexdigest()


def gunzipped(path: Path) -> Iterator[bytes]:
    """Gives what a file has, unpacked; raises Damaged, or BackupProblem if it cannot be read."""
    try:
        with gzip.open(path) as packed:
            while chunk := packed.read(_CHUNK):
                yield chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as cause:
        raise Damaged(
            f"{path} is damaged", reason=str(cause), advice="take that part of the backup again"
        ) from cause
    except OSError as cause:
        raise BackupProblem(f"{path} cannot be read", reason=str(cause.strerror)) from cause
