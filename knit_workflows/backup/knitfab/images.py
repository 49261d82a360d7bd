"""The part `images/` of a backup: a registry's volume, as the script `images.sh` packs it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

from knit_workflows.backup.images import Registry, checked, watched
from knit_workflows.backup.knitfab.claims import CONTENT, DESCRIPTION
from knit_workflows.backup.knitfab.dump import gunzipped
from knit_workflows.backup.knitfab.packing import packed
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.streams import Stream
from knit_workflows.backup.watching import Watcher

IMAGES: Final = "images"
_ROOT: Final = "docker/registry/v2"
_BLOB: Final = re.compile(rf"(?:\./)?{_ROOT}/blobs/sha256/[0-9a-f]{{2}}/([0-9a-f]{{64}})/data")
_LINK: Final = re.compile(rf"(?:\./)?{_ROOT}/(repositories/(?!.*(?:\.\.|/_uploads/)).+/link)")
"""Not what was just being pushed, nor what leads elsewhere."""
_LARGEST_LINK: Final = 1024
_KEPT: Final = ("name", "namespace", "labels")
_BOUND: Final = ("volumeName", "volumeMode")
_AGAIN: Final = "take that part of the backup again, or leave --images out"
_CHUNK: Final = 1 << 20


def load_images(folder: Path, registry: Registry, watcher: Watcher) -> int:
    """Writes a backup's images into a registry, and gives how many blobs it did not have.

    Links come last, so that what they name is there. A second call writes what is still missing.

    Raises:
        Damaged: the part is damaged, or a blob is not what its digest says; there are no new links.
        BackupProblem: there is no such part, or the registry does not take it.
    """
    content = folder / IMAGES / CONTENT
    if not content.is_file():
        raise BackupProblem(
            f"{folder} has no images", reason=f"there is no {content}", advice="leave --images out"
        )
    there = registry.blobs()
    links: dict[str, bytes] = {}
    written = 0

    def blobs() -> Iterator[tuple[str, int, Iterator[bytes]]]:
        nonlocal written
        for name, size, parts in _files(content):
            if (link := _LINK.fullmatch(name)) is not None and size <= _LARGEST_LINK:
                links[link[1]] = b"".join(parts)
            elif (blob := _BLOB.fullmatch(name)) is not None and there.get(blob[1]) != size:
                yield blob[1], size, watched(checked(blob[1], parts, advice=_AGAIN), watcher)
                written += 1
                watcher.finished(1)

    watcher.begins("images", 0, 0)
    registry.write(blobs())
    if links:
        registry.write_links(iter([_archive(links)]))
    return written


def save_images(
    folder: Path, registry: Registry, claim: Mapping[str, Any], watcher: Watcher
) -> None:
    """Writes `images/` into a folder: the claim, as Kubernetes describes it, and its volume.

    Raises:
        BackupProblem: it could not be read whole; what was there before stays.
    """
    part = folder / IMAGES
    part.mkdir(parents=True, exist_ok=True)
    draft = part / f"{CONTENT}.draft"
    watcher.begins("images", 0, 0)
    with packed(draft) as file:
        for chunk in watched(registry.whole(), watcher):
            file.write(chunk)
    (part / DESCRIPTION).write_text(
        json.dumps(_described(claim), indent=4) + "\n", encoding="utf-8"
    )
    draft.rename(part / CONTENT)


def _described(claim: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what Kubernetes has made of a claim, as Knitfab's scripts do."""
    metadata = {key: claim["metadata"][key] for key in _KEPT if key in claim["metadata"]}
    spec = {key: value for key, value in claim["spec"].items() if key not in _BOUND}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "metadata": metadata, "spec": spec}


def _files(content: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Gives the files of an archive: name, bytes, and content, to be read before the next one."""
    stream = cast("IO[bytes]", Stream(gunzipped(content)))
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name, member.size, _parts(file, content)
    except tarfile.TarError as cause:
        raise _damaged(content, cause) from cause


def _parts(file: IO[bytes], content: Path) -> Iterator[bytes]:
    try:
        while part := file.read(_CHUNK):
            yield part
    except tarfile.TarError as cause:
        raise _damaged(content, cause) from cause


def _damaged(content: Path, cause: Exception) -> Damaged:
    return Damaged(f"{content} is damaged", reason=str(cause), advice=_AGAIN)


def _archive(links: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(target), 0o644
            archive.addfile(member, io.BytesIO(target))
    return made.getvalue()
