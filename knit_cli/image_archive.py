"""Finds out what an image would run, from a `docker save` or OCI layout archive, in one pass."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from knit_cli.errors import BadInput

# Names of descriptors and configs come before or after one another in any order, so small files
# are kept until the end. Layers are large, and skipped.
_MOST_FILE_BYTES = 4 << 20
_MOST_KEPT_BYTES = 64 << 20
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class ImageConfig:
    """What matters of an image: its name (or None), and what it runs where."""

    name: str | None
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: tuple[str, ...]
    working_dir: str


def read_image(file: IO[bytes], name: str | None) -> ImageConfig:
    """Gives the image of that name in the archive, or with None the only one there is.

    Reads the stream once, forward only, and keeps at most some 64 MiB of it.

    Raises:
        BadInput: it is no such archive, or the image cannot be told.
    """
    documents = _documents(file)
    images = _images(documents)
    if not images:
        raise BadInput(
            "there is no image in the archive",
            reason="it has neither manifest.json nor index.json with a config",
            advice="give it what `docker save IMAGE` or `skopeo copy … oci-archive:` writes",
        )
    names = sorted(name for found in images.values() for name in found)
    if name is not None:
        for config, found in images.items():
            if name in found:
                return _config(documents[config], name)
        raise BadInput(
            f"the image {name} is not in the archive",
            reason=f"there is: {', '.join(names) or 'one without a name'}",
            advice="write the name as it is in the archive",
        )
    if len(images) > 1:
        raise BadInput(
            "there is more than one image in the archive",
            reason=f"there is: {', '.join(names) or 'several without a name'}",
            advice="say which one: knit plan template IMAGE:TAG",
        )
    ((config, found),) = images.items()
    return _config(documents[config], found[0] if found else None)


def _documents(file: IO[bytes]) -> dict[str, Any]:
    """Gives the JSON files of the archive by path."""
    kept: dict[str, Any] = {}
    size = 0
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile() or member.size > _MOST_FILE_BYTES:
                    continue
                if size + member.size > _MOST_KEPT_BYTES:
                    break
                content = archive.extractfile(member)
                document = _json(content.read()) if content is not None else None
                if document is not None:
                    kept[member.name.removeprefix("./")] = document
                    size += member.size
    except (tarfile.TarError, EOFError) as cause:
        raise BadInput(
            "the image archive cannot be read",
            reason=str(cause),
            advice="give it what `docker save IMAGE` writes",
        ) from cause
    return kept


def _json(content: bytes) -> Any:
    if content.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(content)
    except ValueError:
        return None


def _images(documents: Mapping[str, Any]) -> dict[str, list[str]]:
    """Gives the names of each image by the path of its config, in the archive's order."""
    images: dict[str, list[str]] = {}
    manifest = documents.get("manifest.json")
    for entry in manifest if isinstance(manifest, list) else []:
        config = entry.get("Config")
        if _is_config(documents.get(config)):
            images.setdefault(config, []).extend(entry.get("RepoTags") or [])
    if images:
        return images  # newer Docker writes both forms, for the same images
    for config, name in _oci_images(documents, documents.get("index.json"), None):
        if _is_config(documents.get(config)):
            names = images.setdefault(config, [])
            if name is not None and name not in names:
                names.append(name)
    return images


def _oci_images(
    documents: Mapping[str, Any], index: Any, inherited: str | None
) -> Iterator[tuple[str, str | None]]:
    if not isinstance(index, dict):
        return
    for descriptor in index.get("manifests") or []:
        annotations = descriptor.get("annotations") or {}
        named = (annotations.get(key) for key in _NAME_ANNOTATIONS)
        name = next((one for one in named if one), inherited)
        path = _blob(descriptor)
        document = documents.get(path)
        if isinstance(document, dict) and "config" in document:
            yield _blob(document["config"]), name
        elif path != _blob(index):
            yield from _oci_images(
                {**documents, path: None}, document, name
            )  # never round in rings


def _blob(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    return f"blobs/{algorithm}/{digest}"


def _is_config(document: Any) -> bool:
    # Attestations have a config, too, but not of something that runs.
    return isinstance(document, dict) and "rootfs" in document and document.get("os") != "unknown"


def _config(document: Mapping[str, Any], name: str | None) -> ImageConfig:
    config = document.get("config") or {}
    return ImageConfig(
        name=name,
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        volumes=tuple(config.get("Volumes") or ()),
        working_dir=config.get("WorkingDir") or "/",
    )
