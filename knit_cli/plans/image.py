"""Finds out what an image would run, from a `docker save` or OCI layout archive, in one pass."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeGuard

from knit_cli.errors import BadInput

# Names of descriptors and configs come before or after one another in any order, so small files
# are kept until the end. Layers are large, and skipped.
_MAX_FILE_BYTES = 4 << 20
_MAX_KEPT_BYTES = 64 << 20
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


PLACEHOLDER = "IMAGE"
"""Stands for the name of an image that has only a tag in its archive, until somebody fills it in.

No image can be called so: their names are in small letters.
"""


@dataclass(frozen=True)
class ImageConfig:
    """What matters of an image: its name (or None), and what it runs where."""

    name: str | None
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: tuple[str, ...]
    working_dir: str


@dataclass
class _Image:
    """One image: its names as they are in the archive, and its configs by platform."""

    names: list[str]
    configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def is_called(self, name: str) -> bool:
        """Says whether one of the names means the same; one that is only a tag means any name."""
        wanted = full_name(name)
        return any(
            one == name or wanted == full_name(one) or (_is_tag(one) and name.endswith(f":{one}"))
            for one in self.names
        )

    def same_as(self, other: _Image) -> bool:
        """Says whether they are one image, for different platforms."""
        if self.names or other.names:
            return bool(set(self.names) & set(other.names))
        return not self.configs.keys() & other.configs.keys()


def read_image(file: IO[bytes], name: str | None, platform: str | None = None) -> ImageConfig:
    """Gives the image of that name in the archive, or with None the only one there is.

    Reads the stream once, forward only, and keeps at most some 64 MiB of it.

    Args:
        file: the archive.
        name: as people write it: `t:v1` is also `docker.io/library/t:v1`.
        platform: as in `linux/arm64`; needed where platforms run different things.

    Raises:
        BadInput: it is no such archive, or the image cannot be told.
    """
    images = _images(_documents(file))
    if not images:
        raise BadInput(
            "there is no image in the archive",
            reason="it has neither manifest.json nor index.json with a config",
            advice="give it what `docker save IMAGE` or `skopeo copy … oci-archive:` writes",
        )
    image = _only(images) if name is None else _called(images, name)
    found = name or next(iter(image.names), None)
    if found is not None and _is_tag(found) and found in image.names:
        found = f"{PLACEHOLDER}:{found}"
    return _config(_of_platform(image, platform), found)


def _only(images: list[_Image]) -> _Image:
    if len(images) > 1:
        raise BadInput(
            "there is more than one image in the archive",
            reason=f"there is: {_names(images) or 'several without a name'}",
            advice="say which one: knit plan template IMAGE:TAG",
        )
    return images[0]


def _called(images: list[_Image], name: str) -> _Image:
    # Word for word first: two may mean the same in short.
    exact = (one for one in images if name in one.names)
    found = next(exact, None) or next((one for one in images if one.is_called(name)), None)
    if found is None:
        raise BadInput(
            f"the image {name} is not in the archive",
            reason=f"there is: {_names(images) or 'one without a name'}",
            advice="write the name as it is in the archive",
        )
    return found


def _names(images: list[_Image]) -> str:
    return ", ".join(sorted({name for one in images for name in one.names}))


def _of_platform(image: _Image, platform: str | None) -> Mapping[str, Any]:
    """Gives the config for that platform; None: any, as long as they all run the same."""
    known = ", ".join(image.configs)
    if platform is not None:
        if platform not in image.configs:
            raise BadInput(
                f"the image is not there for {platform}",
                reason=f"there is: {known}",
                advice="write --platform as it is there",
            )
        return image.configs[platform]
    first, *others = image.configs.values()
    if any(_config(one, None) != _config(first, None) for one in others):
        raise BadInput(
            "the image runs different things on its platforms",
            reason=f"there is: {known}",
            advice=f"say for which one: --platform {next(iter(image.configs))}",
        )
    return first


def full_name(name: str) -> str:
    """Gives a name as registries know it: `t` is `docker.io/library/t:latest`."""
    host, slash, rest = name.partition("/")
    if not slash or not (set(host) & {".", ":"} or host == "localhost"):
        host, rest = "docker.io", name
    if host == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    tagged = "@" in rest or ":" in rest.rpartition("/")[2]
    return f"{host}/{rest}" if tagged else f"{host}/{rest}:latest"


def _is_tag(name: str) -> bool:
    """Says whether it is a tag alone, which skopeo and buildah give without the name."""
    return "/" not in name and ":" not in name


def _documents(file: IO[bytes]) -> dict[str, Any]:
    """Gives the JSON files of the archive by path."""
    kept: dict[str, Any] = {}
    size = 0
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                if not member.isfile() or member.size > _MAX_FILE_BYTES:
                    continue
                if size + member.size > _MAX_KEPT_BYTES:
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


def _images(documents: Mapping[str, Any]) -> list[_Image]:
    """Gives the images in the archive's order; those of several platforms once."""
    found: list[_Image] = []
    # Newer Docker writes both forms, for the same images.
    for one in _docker_images(documents) or _oci_images(documents):
        same = next((known for known in found if known.same_as(one)), None)
        if same is None:
            found.append(one)
        else:
            same.names += [name for name in one.names if name not in same.names]
            same.configs.update(one.configs)
    return found


def _docker_images(documents: Mapping[str, Any]) -> list[_Image]:
    manifest = documents.get("manifest.json")
    entries = manifest if isinstance(manifest, list) else []
    return [
        _Image(list(entry.get("RepoTags") or []), {_platform(config): config})
        for entry in entries
        if _is_config(config := documents.get(entry.get("Config")))
    ]


def _oci_images(documents: Mapping[str, Any]) -> list[_Image]:
    """Gives an image for each entry of the index; one that is an index has it for its platforms."""
    index = documents.get("index.json")
    entries = (index.get("manifests") or []) if isinstance(index, dict) else []
    images = []
    for entry in entries:
        found = _Image(_names_of(entry))
        for config, name in _oci_configs(documents, entry):
            found.configs.setdefault(_platform(config), config)
            found.names += [name] if name and name not in found.names else []
        if found.configs:
            images.append(found)
    return images


def _names_of(descriptor: Mapping[str, Any]) -> list[str]:
    annotations = descriptor.get("annotations") or {}
    return [name for key in _NAME_ANNOTATIONS if (name := annotations.get(key))][:1]


def _oci_configs(
    documents: Mapping[str, Any], descriptor: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], str | None]]:
    """Gives the configs below an entry of an index, each with a name of its own if it has one."""
    path = _blob(descriptor)
    document = documents.get(path)
    if not isinstance(document, dict):
        return
    if "config" in document:
        config = documents.get(_blob(document["config"]))
        if _is_config(config):
            yield config, next(iter(_names_of(descriptor)), None)
        return
    for inner in document.get("manifests") or []:
        yield from _oci_configs({**documents, path: None}, inner)  # never round in rings


def _platform(config: Mapping[str, Any]) -> str:
    parts = (config.get("os"), config.get("architecture"), config.get("variant"))
    return "/".join(str(part) for part in parts if part) or "unknown"


def _blob(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    return f"blobs/{algorithm}/{digest}"


def _is_config(document: Any) -> TypeGuard[Mapping[str, Any]]:
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
