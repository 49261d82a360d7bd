"""Names of container images: `[host[:port]/]repository[:tag][@digest]`.

The grammar is that of https://pkg.go.dev/github.com/distribution/reference, by which the kubelet,
containerd, Docker and podman read names, its limits included: what is refused here no node could
pull.
"""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.domain.plans.forms import refuse
from knit_workflows.domain.plans.model import Image

HOST_PREFIX: Final = "host/"
"""Images of this name stand for the machine itself, where a back-end allows that."""

_MAX_HOST_CHARS: Final = 253
_MAX_PORT: Final = 65535
_MAX_PATH_CHARS: Final = 255
_OFFICIAL: Final = "library/"
"""What engines put before a name of one part, and count among its characters."""

_HOST_PART: Final = "[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(
    rf"(?P<name>{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]+))?"
)
_WORD: Final = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{64}")


def parse_image(text: str, place: str) -> Image:
    """Reads the name of an image, as it is given; raises InvalidPlan.

    Without tag and digest the tag is `latest`. Empty parts are let through for `plan_rules` to
    refuse in their turn. The name is not resolved.
    """
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        advice = "a digest is sha256: and 64 hexadecimal digits in lower case, behind one @"
        raise refuse(place, f"{digest[:100]!r} is not the digest of an image", advice)
    repository, colon, image_tag = name.rpartition(":")
    if not colon or "/" in image_tag:  # that colon belongs to the registry's port
        repository, image_tag = name, "" if digest else "latest"
    elif not image_tag:
        return Image(repository, "")
    if not repository:
        return Image(repository, image_tag)
    _check_repository(repository, place)
    if image_tag and not _TAG.fullmatch(image_tag):
        advice = "a tag has at most 128 letters, digits, '_', '.' and '-', no '.' or '-' in front"
        raise refuse(place, f"{image_tag[:130]!r} is not the tag of an image", advice)
    if digest and repository.startswith(HOST_PREFIX):
        advice = f"leave the digest out; for an image of a registry write docker.io/{repository}"
        raise refuse(place, f"{HOST_PREFIX}… is the machine itself, which has no digest", advice)
    return Image(repository, image_tag, digest)


def _check_repository(repository: str, place: str) -> None:
    host, path = _split(repository)
    found = _HOST.fullmatch(host)
    if host and (found is None or len(found["name"]) > _MAX_HOST_CHARS):
        advice = "write the registry as host or host:port, e.g. localhost:5000"
        raise refuse(place, f"{host[:100]!r} is not the address of a registry", advice)
    if found is not None and found["port"] and not 0 < int(found["port"][:9]) <= _MAX_PORT:
        advice = f"a port is a number from 1 to {_MAX_PORT}"
        raise refuse(place, f"{host[:100]!r} has no port that there can be", advice)
    if not _PATH.fullmatch(path):
        advice = "write [host[:port]/]repository[:tag][@digest]"
        if path != path.lower() and _PATH.fullmatch(path.lower()):
            lower = f"{host}/{path.lower()}" if host else path.lower()
            advice = f"write the repository in lower case: {lower[:200]}"
        raise refuse(place, f"{repository[:100]!r} is not the name of an image", advice)
    official = host in ("", "docker.io", "index.docker.io") and "/" not in path
    most = _MAX_PATH_CHARS - (len(_OFFICIAL) if official else 0)
    if len(path) > most:
        advice = f"a repository has at most {most} characters here, its host not counted"
        raise refuse(place, f"the name {path[:60]!r}… is too long", advice)
    if not host and _HEXADECIMAL.fullmatch(path):
        advice = "engines take 64 hexadecimal digits for the id of an image: name it by repository"
        raise refuse(place, f"{path!r} is not the name of an image", advice)


def _split(repository: str) -> tuple[str, str]:
    """Gives host and path: the first part is a host only when nothing else could look like it."""
    first, slash, rest = repository.partition("/")
    is_host = slash and (
        first == "localhost" or "." in first or ":" in first or first != first.lower()
    )
    return (first, rest) if is_host else ("", repository)
