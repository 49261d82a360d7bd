"""Reads what an image runs from a `docker save` or OCI layout archive, in one pass."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeGuard

from knit_cli.errors import BadInput

# Manifests and configs come in any order, so small files are kept until the end. Layers are large
# and skipped.
_MAX_FILE_BYTES = 4 << 20
_MAX_KEPT_BYTES = 64 << 20
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


PLACEHOLDER = "IMAGE"
"""Stands for the name of an image whose archive has only its tag, until the user replaces it.

No image can have this name, because names are in lower case.
"""


@dataclass(frozen=True)
class ImageConfig:
    """The relevant configuration of an image; its name may be unknown."""

    name: str | None
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    volumes: tuple[str, ...]
    working_dir: str


@dataclass
class _Image:
    """One image: its names in the archive, and its configs by platform."""

    names: list[str]
    configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def is_called(self, name: str) -> bool:
        """Tells whether a name matches; one in the archive that is only a tag matches any name."""
        wanted = full_name(name)
        return any(
            one == name or wanted == full_name(one) or (_is_tag(one) and name.endswith(f":{one}"))
            for one in self.names
        )

    def same_as(self, other: _Image) -> bool:
        """Tells whether they are one image for different platforms."""
        if self.names or other.names:
            return bool(set(self.names) & set(other.names))
        return not self.configs.keys() & other.configs.keys()


def read_image(file: IO[bytes], name: str | None, platform: str | None = None) -> ImageConfig:
    """Reads the image of that name, or with None the only one, from an archive.

    Reads the stream once, forward only, and keeps at most 64 MiB of it.

    Args:
        file: the archive.
        name: in short or in full: `t:v1` also matches `docker.io/library/t:v1`.
        platform: such as `linux/arm64`; required if the platforms differ in what they run.

    Raises:
        BadInput: it is not such an archive, or it is unclear which image is meant.
    """
    images = _images(_documents(file))
    if not images:
        raise BadInput(
            "the archive contains no image",
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
            "the archive contains more than one image",
            reason=f"it contains {_names(images) or 'several without a name'}",
            advice="choose one: knit plan template IMAGE:TAG",
        )
    return images[0]


def _called(images: list[_Image], name: str) -> _Image:
    # Exact matches first: two names may have the same short form.
    exact = (one for one in images if name in one.names)
    found = next(exact, None) or next((one for one in images if one.is_called(name)), None)
    if found is None:
        raise BadInput(
            f"the image {name} is not in the archive",
            reason=f"it contains {_names(images) or 'one without a name'}",
            advice="write the name as in the archive",
        )
    return found


def _names(images: list[_Image]) -> str:
    return ", ".join(sorted({name for one in images for name in one.names}))


def _of_platform(image: _Image, platform: str | None) -> Mapping[str, Any]:
    """Gives the config for that platform; None: any, provided that they all run the same."""
    known = ", ".join(image.configs)
    if platform is not None:
        if platform not in image.configs:
            raise BadInput(
                f"the archive does not contain the image for {platform}",
                reason=f"it contains {known}",
                advice="choose one of these as --platform",
            )
        return image.configs[platform]
    first, *others = image.configs.values()
    if any(_config(one, None) != _config(first, None) for one in others):
        raise BadInput(
            "the image differs between platforms",
            reason=f"the archive contains {known}",
            advice=f"choose one: --platform {next(iter(image.configs))}",
        )
    return first


def full_name(name: str) -> str:
    """Expands a name as registries do: `t` is `docker.io/library/t:latest`."""
    host, slash, rest = name.partition("/")
    if not slash or not (set(host) & {".", ":"} or host == "localhost"):
        host, rest = "docker.io", name
    if host == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    tagged = "@" in rest or ":" in rest.rpartition("/")[2]
    return f"{host}/{rest}" if tagged else f"{host}/{rest}:latest"


def _is_tag(name: str) -> bool:
    """Tells whether it is a tag only; skopeo and buildah write no name."""
    return "/" not in name and ":" not in name


def _documents(file: IO[bytes]) -> dict[str, Any]:
    """Reads the JSON files of the archive by path."""
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
    """Gives the images in the archive's order, with all platforms of one merged."""
    found: list[_Image] = []
    # Recent versions of Docker write both forms for the same images.
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
    """Gives an image for each entry of the index; an entry that is an index has its platforms."""
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
    """Gives the configs below an entry of an index, each with its own name, if any."""
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
        yield from _oci_configs({**documents, path: None}, inner)  # guards against cycles


def _platform(config: Mapping[str, Any]) -> str:
    parts = (config.get("os"), config.get("architecture"), config.get("variant"))
    return "/".join(str(part) for part in parts if part) or "unknown"


def _blob(descriptor: Mapping[str, Any]) -> str:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    return f"blobs/{algorithm}/{digest}"


def _is_config(document: Any) -> TypeGuard[Mapping[str, Any]]:
    # Attestations have a config too, but not one of an image.
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
