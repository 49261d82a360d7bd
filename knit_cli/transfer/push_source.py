"""The source of a push: surveyed before anything is sent, then packed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from knit_cli.errors import BadInput
from knit_workflows.archive import CannotPack, Form, iter_pack, look_through
from knit_workflows.domain.os_errors import advice_for, reason_of

STACK = Path(".knit", "dev", "state.json")
"""Where `knit dev up` keeps its record, below the folder it was started in."""

_NOTHING_SENT = "nothing was uploaded"
_AS_LINK = f"push without --dereference to keep it as a link; {_NOTHING_SENT}"


@dataclass(frozen=True)
class Source:
    """A folder or file that can be pushed; `archive_bytes` estimates the size of its tar."""

    path: Path
    archive_bytes: int
    dereference: bool
    links: bool

    @property
    def name(self) -> str:
        """The base name, also of `.` and `..`."""
        return Path(os.path.abspath(self.path)).name  # noqa: PTH100  resolve() would follow links

    def pack(self) -> Iterator[bytes]:
        """Packs it as plain tar, chunk by chunk; raises CannotPack or OSError."""
        form = Form(everything=True, holes=True)
        root, dereference = _root(self.path, self.dereference)
        return iter_pack(root, form, dereference=dereference, links=self.links)


def survey(
    path: Path,
    shown: str,
    excluded: Callable[[str, str], object],
    *,
    dereference: bool,
    links: bool = True,
) -> Source:
    """Checks a push source before anything is sent; reads no content.

    Args:
        path: the folder or file.
        shown: the path as the user wrote it, for messages.
        excluded: receives path and kind of each thing that cannot be pushed.
        dereference: whether to follow links.
        links: whether to push the links that are not followed.

    Raises:
        BadInput: it does not exist, or something in it cannot be read.
    """
    try:
        info = path.stat()
        if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
            raise BadInput(
                f"cannot push {shown}",
                reason="it is neither a folder nor a file",
                advice=f"push a folder; {_NOTHING_SENT}",
            )
        _refuse_running_stack(path, shown)
        root, follow = _root(path, dereference)
        size = look_through(root, excluded, dereference=follow, links=links)
    except CannotPack as cause:
        raise BadInput(f"cannot push {shown}", reason=str(cause), advice=_AS_LINK) from cause
    except OSError as cause:
        raise _unreadable(cause, path, shown, dereference) from cause
    return Source(path, size, dereference, links)


def _refuse_running_stack(path: Path, shown: str) -> None:
    """Refuses the folder of a `knit dev` stack: its database and volumes would be pushed too."""
    if (path / STACK).exists():
        raise BadInput(
            f"cannot push {shown}",
            reason=f"{STACK} in it is the state of an embedded knit, with all its Data",
            advice=f"push a folder below it; {_NOTHING_SENT}",
        )


def _root(path: Path, dereference: bool) -> tuple[Path, bool]:
    # A source that is itself a link is always followed. A file is packed as a folder with only
    # that file in it, under the link's name.
    return (path.resolve(), dereference) if path.is_dir() else (path, True)


def _unreadable(cause: OSError, path: Path, shown: str, dereference: bool) -> BadInput:
    inside = None if cause.filename in (str(path), None) else str(cause.filename)
    what = f"cannot push {shown}" if inside is None else f"cannot push {shown}: {inside}"
    if cause.errno == errno.ENOENT:
        if inside is None:
            reason, advice = "there is no such file or folder", _NOTHING_SENT
        elif dereference:
            reason, advice = "the link is broken", _AS_LINK
        else:
            reason, advice = "it has been removed in the meantime", f"push again; {_NOTHING_SENT}"
    elif cause.errno == errno.ELOOP:
        reason = "the link leads to itself"
        advice = _AS_LINK if inside is not None else f"push its target instead; {_NOTHING_SENT}"
    else:
        reason = reason_of(cause)
        advice = f"{unreadable_advice(cause)}; {_NOTHING_SENT}"
    return BadInput(what, reason=reason, advice=advice)


def unreadable_advice(cause: OSError) -> str:
    """Gives advice about something in a source that cannot be read."""
    if isinstance(cause, PermissionError):
        return "make it readable, or remove it from there"
    return advice_for(cause, "remove it from there, or push a copy")
