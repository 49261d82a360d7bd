"""The installation's own registry: commands in its pod read and write what it keeps.

It need not stop: it looks at its files for each request. Their places are those of the file system
driver of CNCF Distribution: `blobs/sha256/0f/0f…/data`, and links below `repositories`.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import IO, Any, Final

from knit_cli.admin.charts import REGISTRY
from knit_cli.admin.cluster import Cluster, Piped
from knit_cli.errors import CliError
from knit_workflows.backup.problems import BackupProblem

_ROOT: Final = "/var/lib/registry/docker/registry/v2"
_BLOB: Final = re.compile(r"(\d+) blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})/data")
_CHUNK: Final = 1 << 20
_BLOBS: Final = (
    "[ ! -d blobs/sha256 ] || find blobs/sha256 -type f -name data -exec stat -c '%s %n' {} + "
    "&& echo end"
)
_END_OF_ARCHIVE: Final = bytes(1024)
_LINKS: Final = "find repositories -name _uploads -prune -o -type f -print"
"""Not what is just being pushed, of which nobody else knows."""
_NONE: Final = b"none"
_READ_LINKS: Final = (
    f'if [ -d repositories ] && [ -n "$({_LINKS} | head -n 1)" ]; '
    f"then {_LINKS} | tar -c -f - -T -; else printf {_NONE.decode()}; fi"
)
_READ_WHOLE: Final = "cd ../../.. && tar -c -f - ./docker"
_READ: Final = "tar -c -f - -T -"
_WRITE: Final = "tar -x -f -"

Shell = Callable[[str, IO[bytes]], AbstractContextManager[Piped]]
"""Runs a command where the files are, its stderr into a file."""


def registry_of(cluster: Cluster) -> RegistryFiles:
    """Gives the registry of an installation; raises CliError if it has none."""
    found = cluster.get("deployments", "--selector", f"app.kubernetes.io/name={REGISTRY}")
    if not found:
        raise CliError(
            f"there is no image registry in namespace {cluster.namespace}",
            reason=f"the chart {REGISTRY} is not installed, or its registry is external",
            advice="leave --images out; images of other registries are kept there",
        )
    name = found[0]["metadata"]["name"]
    command = ("exec", "--stdin", f"deployment/{name}", "--container", "image-registry", "--")

    def shell(script: str, stderr: IO[bytes]) -> AbstractContextManager[Piped]:
        whole = f"mkdir -p {_ROOT} && cd {_ROOT} && {{ {script}; }}"
        return cluster.piped(*command, "sh", "-c", whole, stderr=stderr)

    return RegistryFiles(shell, cluster.find("persistentvolumeclaim", f"{name}-root"))


class RegistryFiles:
    """Implements `backup.images.Registry` by a shell with find, stat and tar."""

    def __init__(self, shell: Shell, claim: dict[str, Any] | None = None) -> None:
        """`shell`: it starts where `blobs` and `repositories` are, or would be.

        `claim`: that of the volume, as Kubernetes describes it.
        """
        self._shell = shell
        self.claim = claim

    def links(self) -> Iterator[bytes]:
        """See `Registry`; nothing, if it is empty."""
        with self._running(_READ_LINKS) as process:
            process.stdin.close()
            yield from _whole_archive(process.stdout)

    def whole(self) -> Iterator[bytes]:
        """See `Registry`."""
        with self._running(_READ_WHOLE) as process:
            process.stdin.close()
            yield from _whole_archive(process.stdout)

    def blobs(self) -> Mapping[str, int]:
        """See `Registry`."""
        with self._running(_BLOBS) as process:
            process.stdin.close()
            lines = process.stdout.read().decode("ascii", "replace").splitlines()
        if lines[-1:] != ["end"]:
            raise _cut("the list of blobs has no end")
        found = (_BLOB.fullmatch(line) for line in lines)
        return {one[2]: int(one[1]) for one in found if one is not None}

    def read(self, digests: Sequence[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `Registry`; what is not there any more is left out."""
        names = "".join(f"{_place(one)}\n" for one in digests).encode()
        with self._running(_READ, may_fail=True) as process:
            feeding = threading.Thread(target=_feed, args=(process.stdin, names), daemon=True)
            feeding.start()
            with _no_archive(), tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is not None:
                        digest = member.name.split("/")[-2]
                        yield digest, _parts(content)
            feeding.join()

    def write(self, contents: Iterable[tuple[str, int, Iterator[bytes]]]) -> None:
        """See `Registry`. One that is cut has other bytes than it should, and is written again."""
        with (
            self._running(_WRITE) as process,
            tarfile.open(fileobj=process.stdin, mode="w|") as archive,
        ):
            for digest, size, content in contents:
                member = tarfile.TarInfo(_place(digest))
                member.size, member.mode = size, 0o644
                archive.addfile(member, _Stream(content))
                for _ in content:  # at whose end its digest is compared
                    pass

    def write_links(self, archive: Iterator[bytes]) -> None:
        """See `Registry`."""
        first = next(archive, b"")
        if not first:
            return
        with self._running(_WRITE) as process:
            process.stdin.write(first)
            for part in archive:
                process.stdin.write(part)

    @contextmanager
    def _running(self, script: str, *, may_fail: bool = False) -> Iterator[Piped]:
        """Runs a command; its stdin is closed, and its end awaited, with the block.

        Raises:
            BackupProblem: it has failed, also where the block has met a closed pipe for that.
        """
        with tempfile.TemporaryFile() as said, self._shell(script, said) as process:
            cut: OSError | None = None
            try:
                yield process
                process.stdin.close()
            except BrokenPipeError as closed:
                cut = closed
            if (process.wait() != 0 and not may_fail) or cut is not None:
                said.seek(0)
                words = said.read().decode("utf-8", "replace").strip()
                raise BackupProblem(
                    "a command in the pod of the registry has failed",
                    reason=words[-600:] or "it was cut",
                    advice="repeat the command: it goes on from here",
                ) from cut


class _Stream:
    """Content that comes in parts, as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int = 0, /) -> bytes:
        """Gives so many bytes, fewer at the end."""
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


def _whole_archive(stdout: IO[bytes]) -> Iterator[bytes]:
    """Gives an archive, or nothing for the word that stands for none; raises BackupProblem."""
    last = b""
    for part in iter(partial(stdout.read, _CHUNK), b""):
        last = (last + part)[-len(_END_OF_ARCHIVE) :]
        if last != _NONE:
            yield part
    if last not in (_NONE, _END_OF_ARCHIVE):
        raise _cut("its archive has no end")


def _parts(content: IO[bytes]) -> Iterator[bytes]:
    with _no_archive():
        yield from iter(partial(content.read, _CHUNK), b"")


def _place(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest}/data"


def _feed(stdin: IO[bytes], names: bytes) -> None:
    with suppress(OSError, ValueError):
        stdin.write(names)
        stdin.close()


@contextmanager
def _no_archive() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as cause:
        raise _cut(str(cause)) from cause


def _cut(reason: str) -> BackupProblem:
    """Says that an exec may lose the end of what a command prints, and succeed all the same."""
    return BackupProblem(
        "what came from the pod of the registry is cut or garbled",
        reason=reason,
        advice="repeat the command: it goes on from here",
    )
