"""Lets a Run start only if its image is on a signed list: a Before hook.

LIST_KEY, in the environment, is what the list is signed with, SECRET what knit signs with.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import hmac
import os
from pathlib import Path

from receiver import Answer, Run, serve


class ListRefused(Exception):
    """The list cannot be believed; says why."""


def approvers(images: Path, key: bytes) -> dict[str, str]:
    """Gives the images of the list, each with who has approved it; raises ListRefused."""
    try:
        content, given = images.read_bytes(), signature_file(images).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ListRefused(f"the list of images cannot be read: {error}") from error
    if not hmac.compare_digest(given.encode(), signature(content, key).encode()):
        raise ListRefused(
            f"the list of images {images} has changed since it was signed; no Run starts until "
            "it is signed again"
        )
    lines = (line.split(maxsplit=1) for line in content.decode(errors="replace").splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2 and line[0] != "#"}


def signature(content: bytes, key: bytes) -> str:
    """Gives the HMAC of a list."""
    return hmac.digest(key, content, hashlib.sha256).hex()


def signature_file(images: Path) -> Path:
    """Says where the signature of a list is: in the file beside it."""
    return images.with_name(f"{images.name}.sig")


def sign(images: Path, key: bytes) -> None:
    """Signs a list; a signature is never half-written."""
    new = images.with_name(f"{images.name}.sig.new")
    new.write_text(f"{signature(images.read_bytes(), key)}\n")
    new.replace(signature_file(images))


def admit(images: Path, key: bytes, run: Run) -> Answer:
    """Agrees to the start of a container whose image is on the list, and to all else."""
    if run["transition"]["to"] != "starting":
        return Answer(200)
    image = run["plan"].get("image")
    try:
        # The list is read for each call: a change holds at once.
        approver = approvers(images, key).get(image)
    except ListRefused as refused:
        return Answer(503, str(refused))
    if approver is None:
        return Answer(403, f"nobody has approved the image {image}: it is not in {images}")
    return Answer(200, variables={"APPROVED_BY": approver})


def main() -> None:
    """Signs the list, or serves until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m gate", description=__doc__)
    parser.add_argument("action", choices=("sign", "serve"))
    parser.add_argument("images", type=Path, help="the list: on each line an image and a name")
    parser.add_argument("--listen", default="127.0.0.1:8702", metavar="ADDRESS:PORT")
    given = parser.parse_args()
    key = os.environ.get("LIST_KEY", "").encode()
    if len(key) < 32:
        parser.error("set LIST_KEY in the environment, to at least 32 characters")
    if given.action == "sign":
        sign(given.images, key)
    else:
        serve(given.listen, functools.partial(admit, given.images, key))


if __name__ == "__main__":
    main()
