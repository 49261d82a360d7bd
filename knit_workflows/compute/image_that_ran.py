"""What is recorded of the image that a container was really made of; pure.

A node that knows one image under several names reports any of them, with the digest that the image
has there. A digest alone is recorded only if it is of the repository that the Plan names: nobody
could pull the Plan's repository by the digest of another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_IMAGE_ID: Final = "id:"
_DOCKER: Final = ("docker.io", "index.docker.io")


def image_that_ran(references: Iterable[str], image_id: str, image: str) -> str | None:
    """Gives `DIGEST`, `REPOSITORY@DIGEST` if that is another one than that of `image`, or `id:ID`.

    `references` are the `REPOSITORY@DIGEST` that a node or engine reports; without any the image
    has never been in a registry, and only its own id tells what it was. None: nothing is known.
    """
    known = [one.split("://")[-1] for one in references if "@" in one]
    for one in known:
        repository, _, digest = one.partition("@")
        if not image or _full_name(repository) == _full_name(image):
            return digest
    if known:
        return known[0]
    return _IMAGE_ID + image_id if image_id else None


def _full_name(image: str) -> str:
    """Gives the repository of an image as engines complete it: with its host, without its tag."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    repository = head + slash + last.partition(":")[0]
    host, slash, path = repository.partition("/")
    if not slash or not (set(host) & {".", ":"} or host == "localhost"):
        host, path = _DOCKER[0], repository
    if host in _DOCKER:
        host, path = _DOCKER[0], path if "/" in path else f"library/{path}"
    return f"{host}/{path}"
