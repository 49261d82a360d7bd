"""Puts file trees as images into a registry over plain HTTP; no engine is needed."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from knit_workflows.provision.cache import SetUpError

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class ImageSettings:
    """What an image says about how to start it."""

    command: Sequence[str] = ()
    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def has_image(registry: str, repository: str, tag: str) -> bool:
    """Tells whether the registry holds this image, every byte of it as its digests say."""
    accepted = {"Accept": f"{_MANIFEST}, {_DOCKER_MANIFEST}"}
    path = f"/v2/{repository}/manifests/{tag}"
    code, _, body = _answer(registry, "GET", path, None, accepted)
    if code != http.client.OK:
        return False
    manifest = json.loads(body)
    digests = [part["digest"] for part in (manifest["config"], *manifest["layers"])]
    return all(_has_blob(registry, repository, digest) for digest in digests)


def _has_blob(registry: str, repository: str, digest: str) -> bool:
    code, _, body = _answer(registry, "GET", f"/v2/{repository}/blobs/{digest}", None, {})
    return code == http.client.OK and _digest(body) == digest


def push_tree(
    registry: str, repository: str, tag: str, tree: Path, settings: ImageSettings
) -> None:
    """Stores `tree` as an image of one uncompressed layer under `repository:tag`."""
    layer = _as_layer(tree)
    variables = [f"{name}={value}" for name, value in settings.environment.items()]
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Env": variables, "Cmd": list(settings.command), "User": settings.user},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        # buildah counts these against the layers when it builds upon the image.
        "history": [{"created_by": "knit's tests"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _push_blob(registry, repository, _CONFIG, json.dumps(config).encode()),
        "layers": [_push_blob(registry, repository, _LAYER, layer)],
    }
    path = f"/v2/{repository}/manifests/{tag}"
    body = json.dumps(manifest).encode()
    code, _, _ = _answer(registry, "PUT", path, body, {"Content-Type": _MANIFEST})
    _expect(code, http.client.CREATED, f"storing {repository}:{tag}")


def _as_layer(tree: Path) -> bytes:
    def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
        # Always the same bytes for the same files, whoever made them and when.
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(tree.iterdir()):
            archive.add(path, path.name, filter=normal)
    return buffer.getvalue()


def _push_blob(registry: str, repository: str, kind: str, content: bytes) -> dict[str, Any]:
    descriptor = {"mediaType": kind, "digest": _digest(content), "size": len(content)}
    code, answer, _ = _answer(registry, "POST", f"/v2/{repository}/blobs/uploads/", b"", {})
    _expect(code, http.client.ACCEPTED, f"an upload to {repository}")
    upload = urlsplit(answer["Location"])
    path = f"{upload.path}?{upload.query}&digest={descriptor['digest']}"
    headers = {"Content-Type": "application/octet-stream"}
    code, _, _ = _answer(registry, "PUT", path, content, headers)
    _expect(code, http.client.CREATED, f"a blob of {repository}")
    return descriptor


def _answer(
    registry: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(registry, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def _expect(code: int, wanted: int, what: str) -> None:
    if code != wanted:
        raise SetUpError(f"The image registry answered {code} to {what}.")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
