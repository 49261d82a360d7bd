"""A registry's files in a folder, read and written by a shell there in place of its pod's."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from knit_cli.admin.backup.registry import RegistryFiles
from knit_cli.admin.cluster import Piped


@dataclass
class Folder:
    """Where a registry keeps its images, and the shell there.

    `path`: `docker/registry/v2` of its volume.
    """

    path: Path
    stops_after: int | None = None
    """So many bytes of what is written arrive; the shell is killed then."""
    shows: int | None = None
    """So many bytes of what is read arrive, and nobody says that there were more."""

    @property
    def files(self) -> RegistryFiles:
        self.path.mkdir(parents=True, exist_ok=True)
        return RegistryFiles(self.shell)

    @contextmanager
    def shell(self, script: str, stderr: IO[bytes]) -> Iterator[Piped]:
        if self.stops_after is not None and "-x" in script:
            script = f"head -c {self.stops_after} | {{ {script}; }}; kill -KILL $$"
        if self.shows is not None:
            script = f"{{ {script}; }} | head -c {self.shows}"
        command = ["sh", "-c", script]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, cwd=self.path)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Piped(process.stdin, process.stdout, process.wait)
        finally:
            process.terminate()
            with suppress(OSError):  # what was not written any more
                process.__exit__(None, None, None)

    def push(self, content: bytes, link: str) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.put(f"blobs/sha256/{digest[:2]}/{digest}/data", content)
        self.put(f"repositories/{link}/current/link", f"sha256:{digest}".encode())
        return digest

    def put(self, name: str, content: bytes) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(content)

    def all(self) -> dict[str, bytes]:
        files = (one for one in self.path.rglob("*") if one.is_file())
        return {str(one.relative_to(self.path)): one.read_bytes() for one in files}
