"""The part `images/` of a backup: a registry's volume, as the script `images.sh` packs it."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from knit_workflows.backup.images import (
    Registry,
    add_file,
    checked,
    files_of,
    is_link,
    put_links,
    require_blobs,
    watched,
)
from knit_workflows.backup.knitfab.claims import CONTENT, DESCRIPTION
from knit_workflows.backup.knitfab.dump import gunzipped
from knit_workflows.backup.knitfab.packing import packed
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.watching import Watcher

IMAGES: Final = "images"
_ROOT: Final = re.compile(r"(?:\./)?docker/registry/v2/(.+)")
_BLOB: Final = re.compile(r"blobs/sha256/[0-9a-f]{2}/([0-9a-f]{64})/data")
_KEPT: Final = ("name", "namespace", "labels")
_BOUND: Final = ("volumeName", "volumeMode")
_PREFIX: Final = "./docker/registry/v2/"
_ROTTEN: Final = "remove it from the registry's volume, and push what has it again"
_AGAIN: Final = "take that part of the backup again, or leave --images out"


def load_images(folder: Path, registry: Registry, watcher: Watcher, *, replaces: bool) -> int:
    """Writes a backup's images into a registry, and gives how many blobs it did not have.

    Links come last, so that what they name is there; with `replaces` also those that are there
    already. A second call writes what is still missing.

    Raises:
        Damaged: the part is damaged, or a blob is not what its digest says; there are no new links.
        BackupProblem: there is no such part, or the registry does not take it.
    """
    there = registry.blobs()
    links: dict[str, bytes] = {}
    wanted: dict[str, int] = {}
    written = 0

    def missing() -> Iterator[tuple[str, int, Iterator[bytes]]]:
        nonlocal written
        for digest, size, content in _blobs(_content(folder), links):
            wanted[digest] = size
            if there.get(digest) != size:
                yield digest, size, watched(content, watcher)
                written += 1
                watcher.finished(1)

    watcher.begins("images", 0, 0)
    registry.write(missing())
    put_links(registry, links, replaces=replaces)
    require_blobs(registry, wanted)
    return written


def check_part(folder: Path, watcher: Watcher) -> int:
    """Reads a backup's images, and gives the bytes of all blobs; raises as `load_images` does."""
    watcher.begins("images", 0, 0)
    total = 0
    for _, size, content in _blobs(_content(folder), {}):
        for part in content:
            watcher.moved(len(part))
        total += size
        watcher.finished(1)
    return total


def _content(folder: Path) -> Path:
    content = folder / IMAGES / CONTENT
    if not content.is_file():
        raise BackupProblem(
            f"{folder} has no images", reason=f"there is no {content}", advice="leave --images out"
        )
    if content.stat().st_size == 0:
        raise Damaged(f"{content} is damaged", reason="it is empty", advice=_AGAIN)
    return content


def _blobs(content: Path, links: dict[str, bytes]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Gives all blobs, whose contents need not be read, and puts the links aside."""
    for name, size, parts in files_of(gunzipped(content)):
        if (below := _ROOT.fullmatch(name)) is None:
            continue
        if is_link(below[1], size):
            links[below[1]] = b"".join(parts)
        elif (blob := _BLOB.fullmatch(below[1])) is not None:
            yield blob[1], size, checked(blob[1], parts, advice=_AGAIN)


def save_images(
    folder: Path, registry: Registry, claim: Mapping[str, Any], watcher: Watcher
) -> None:
    """Writes `images/` into a folder: the claim, as Kubernetes describes it, and its images.

    Raises:
        BackupProblem: it could not be read whole; what was there before stays.
    """
    part = folder / IMAGES
    part.mkdir(parents=True, exist_ok=True)
    draft = part / f"{CONTENT}.draft"
    links = registry.links()
    there = registry.blobs()
    watcher.begins("images", len(there), 0)
    left = set(there)
    with (
        packed(draft) as file,
        # As Knitfab's scripts unpack it: with busybox.
        tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(links):
            add_file(archive, f"{_PREFIX}{name}", len(links[name]), iter([links[name]]))
        for digest, content in registry.read(list(there)) if there else ():
            whole = watched(checked(digest, content, advice=_ROTTEN), watcher)
            place = f"{_PREFIX}blobs/sha256/{digest[:2]}/{digest}/data"
            add_file(archive, place, there[digest], whole)
            left.discard(digest)
            watcher.finished(1)
    if left:
        raise BackupProblem(
            f"{len(left):,} blobs of the registry were removed while they were to be read",
            advice="repeat the command",
        )
    description = json.dumps(_described(claim), indent=4)
    (part / DESCRIPTION).write_text(f"{description}\n", encoding="utf-8")
    draft.rename(part / CONTENT)


def _described(claim: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what Kubernetes has made of a claim, as Knitfab's scripts do."""
    metadata = {key: claim["metadata"][key] for key in _KEPT if key in claim["metadata"]}
    spec = {key: value for key, value in claim["spec"].items() if key not in _BOUND}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**kind, "metadata": metadata, "spec": spec}
