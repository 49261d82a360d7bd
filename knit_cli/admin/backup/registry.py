"""The installation's own registry: commands in its pod read and write what it keeps.

It need not stop: it looks at its files for each request. Their places are those of the file system
driver of CNCF Distribution: `blobs/sha256/0f/0f…/data`, and links below `repositories`.
"""

from __future__ import annotations

import re
import secrets
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
from knit_workflows.backup.images import add_file, files_of, packed, unpacked
from knit_workflows.backup.problems import BackupProblem

_ROOT: Final = "/var/lib/registry/docker/registry/v2"
_BLOB: Final = re.compile(r"(\d+) blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})/data")
_CHUNK: Final = 1 << 20
_BATCH: Final = 1 << 30
"""After so many bytes what was written gets its names, which a cut leaves."""
_BLOBS: Final = (
    "[ ! -d blobs/sha256 ] || find blobs/sha256 -type f -name data -exec stat -c '%s %n' {} + "
    "&& echo end"
)
_FIND_LINKS: Final = "find repositories -name _uploads -prune -o -type f -name link"
_NAMES: Final = f"[ ! -d repositories ] || {_FIND_LINKS} -print && echo end"
_END: Final = b"knit: that is all"
"""An exec may lose the end of what a command prints, and succeed all the same."""
_TAR: Final = "tar -c -f -"
"""Not every busybox knows more of it. Names come by arguments; several archives follow each other
then. A file that is gone meanwhile is left out."""
_LINKS: Final = (
    f"[ ! -d repositories ] || {_FIND_LINKS} -exec {_TAR} {{}} +; printf %s '{_END.decode()}'"
)
_READ: Final = f"xargs {_TAR}; printf %s '{_END.decode()}'"
_WRITE: Final = (
    "find . -maxdepth 1 -name 'knit-part-*' -mmin +1440 -exec rm -rf {{}} +; p={part}; "
    "mkdir $p && (cd $p && tar -x -f -) && sync && (cd $p && find . -type f) | "
    'while IFS= read -r f; do mkdir -p "${{f%/*}}" && mv -f "$p/$f" "$f" || exit 1; done; '
    "r=$?; rm -rf $p; exit $r"
)
"""Files get their names once they are whole and on the disk: a push that finds one believes it."""

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

    def links(self) -> Mapping[str, bytes]:
        """See `Registry`. One that goes meanwhile is left out."""
        with self._running(_LINKS) as process:
            process.stdin.close()
            return unpacked(_until_end(process.stdout))

    def link_names(self) -> set[str]:
        """See `Registry`."""
        return set(self._lines(_NAMES))

    def blobs(self) -> Mapping[str, int]:
        """See `Registry`."""
        found = (_BLOB.fullmatch(line) for line in self._lines(_BLOBS))
        return {one[2]: int(one[1]) for one in found if one is not None}

    def _lines(self, script: str) -> list[str]:
        with self._running(script) as process:
            process.stdin.close()
            lines = process.stdout.read().decode("utf-8", "replace").splitlines()
        if lines[-1:] != ["end"]:
            raise _cut("its list has no end")
        return lines[:-1]

    def read(self, digests: Sequence[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `Registry`; what is not there any more is left out."""
        names = "".join(f"{_place(one)}\n" for one in digests).encode()
        with self._running(_READ) as process:
            feeding = threading.Thread(target=_feed, args=(process.stdin, names), daemon=True)
            feeding.start()
            for name, _, content in files_of(_until_end(process.stdout), several=True):
                yield name.split("/")[-2], content
            feeding.join()

    def write(self, contents: Iterable[tuple[str, int, Iterator[bytes]]]) -> None:
        """See `Registry`. After a cut those of earlier batches are there, the others are not."""
        coming = iter(contents)
        blob = next(coming, None)
        while blob is not None:
            size = 0
            with (
                self._running(_writing()) as process,
                # Programs of busybox do not know the large sizes of the other format.
                tarfile.open(
                    fileobj=process.stdin, mode="w|", format=tarfile.GNU_FORMAT
                ) as archive,
            ):
                while blob is not None and size < _BATCH:
                    digest, length, content = blob
                    add_file(archive, _place(digest), length, content)
                    size += length
                    blob = next(coming, None)

    def write_links(self, links: Mapping[str, bytes]) -> None:
        """See `Registry`."""
        with self._running(_writing()) as process:
            for part in packed(links):
                process.stdin.write(part)

    @contextmanager
    def _running(self, script: str) -> Iterator[Piped]:
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
            if process.wait() != 0 or cut is not None:
                said.seek(0)
                words = said.read().decode("utf-8", "replace").strip()
                raise BackupProblem(
                    "a command in the pod of the registry has failed",
                    reason=words[-600:] or "it was cut",
                    advice="repeat the command: it goes on from here",
                ) from cut


def _writing() -> str:
    return _WRITE.format(part=f"knit-part-{secrets.token_hex(4)}")


def _until_end(stdout: IO[bytes]) -> Iterator[bytes]:
    """Gives what comes before the word that is printed last; raises BackupProblem without it."""
    rest = b""
    for part in iter(partial(stdout.read, _CHUNK), b""):
        rest += part
        yield rest[: -len(_END)]
        rest = rest[-len(_END) :]
    if rest != _END:
        raise _cut("it has no end")


def _place(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest}/data"


def _feed(stdin: IO[bytes], names: bytes) -> None:
    with suppress(OSError, ValueError):
        stdin.write(names)
        stdin.close()


def _cut(reason: str) -> BackupProblem:
    return BackupProblem(
        "what came from the pod of the registry is cut or garbled",
        reason=reason,
        advice="repeat the command: it goes on from here",
    )
