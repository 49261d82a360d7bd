"""Small archives for tests: good ones and hostile ones."""

from __future__ import annotations

import gzip
import io
import tarfile

HELLO = {"a.txt": b"hello", "sub/b.bin": bytes(range(256)) * 10}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def tar_with(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(_file("good.txt", 4), io.BytesIO(b"good"))
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def files_in(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {
            member.name: opened.extractfile(member).read()  # type: ignore[union-attr]
            for member in opened
            if member.isfile()
        }


def _file(name: str, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = link
    return member


def _claiming(size: int, form: int) -> bytes:
    """An archive whose one file is said to be so large, and has no content at all."""
    return _file("huge", size).tobuf(form) + bytes(1024)


def _named(name: str, form: int) -> bytes:
    return _file(name).tobuf(form) + bytes(1024)


_GOOD = tar_of(HELLO)
_GZIPPED = gzip.compress(_GOOD)
ODD = tar_with(
    _special("up", tarfile.SYMTYPE, "../.."),
    _special("root", tarfile.SYMTYPE, "/etc/passwd"),
    _special("nowhere", tarfile.SYMTYPE, "no/where"),
    _special("again", tarfile.LNKTYPE, "up"),
    _special("pipe", tarfile.FIFOTYPE),
    _special("empty", tarfile.DIRTYPE),
)
"""Links wherever they lead, and what else is data."""

HOSTILE: dict[str, tuple[str, bytes]] = {
    "a path above": ("application/x-tar", tar_with(_file("../evil", 3))),
    "an absolute path": ("application/x-tar", tar_with(_file("/tmp/evil", 3))),
    "through a link": (
        "application/x-tar",
        tar_with(_special("l", tarfile.SYMTYPE, "sub"), _file("l/evil", 3)),
    ),
    "through a link outside": (
        "application/x-tar",
        tar_with(_special("l", tarfile.SYMTYPE, "../.."), _file("l/evil", 3)),
    ),
    "a link through a link": (
        "application/x-tar",
        tar_with(_special("l", tarfile.SYMTYPE, "/"), _special("l/evil", tarfile.SYMTYPE, "x")),
    ),
    "a device": ("application/x-tar", tar_with(_special("d", tarfile.CHRTYPE))),
    "a hard link outside": ("application/x-tar", tar_with(_special("h", tarfile.LNKTYPE, "/etc"))),
    "one name twice": ("application/x-tar", tar_with(_file("good.txt", 1))),
    "cut tar": ("application/x-tar", _GOOD[: len(_GOOD) // 3]),
    "cut tar on a block": ("application/x-tar", _GOOD[:1024]),
    "no bytes": ("application/x-tar", b""),
    "no gzip bytes": ("application/tar+gzip", b""),
    "cut gzip": ("application/tar+gzip", _GZIPPED[:-9]),
    "gzip without its end": ("application/tar+gzip", _GZIPPED[:-1]),
    "damaged gzip": (
        "application/tar+gzip",
        _GZIPPED[:100] + bytes([_GZIPPED[100] ^ 0xFF]) + _GZIPPED[101:],
    ),
    "wrong CRC": ("application/tar+gzip", _GZIPPED[:-8] + b"\0\0\0\0" + _GZIPPED[-4:]),
    "something behind the gzip": ("application/tar+gzip", _GZIPPED + b"more"),
    "not gzip": ("application/tar+gzip", _GOOD),
    "not tar": ("application/tar+gzip", gzip.compress(b"hello" * 1000)),
    "a second archive": ("application/x-tar", _GOOD + tar_of({"late": b"x"})),
    "a block device": ("application/x-tar", tar_with(_special("d", tarfile.BLKTYPE))),
    "a hard link through a link": (
        "application/x-tar",
        tar_with(_special("l", tarfile.SYMTYPE, ".."), _special("h", tarfile.LNKTYPE, "l/x")),
    ),
    "a volume label": ("application/x-tar", tar_with(_special("v", b"V"))),
    "a name of 10,000 bytes (pax)": ("application/x-tar", _named("n" * 10_000, tarfile.PAX_FORMAT)),
    "a name of 10,000 bytes (GNU)": ("application/x-tar", _named("n" * 10_000, tarfile.GNU_FORMAT)),
    "a path of 1.1 MB": ("application/x-tar", _named("d/" * 550_000 + "x", tarfile.PAX_FORMAT)),
    "too deep a path": ("application/x-tar", _named("d/" * 66_000 + "x", tarfile.PAX_FORMAT)),
    "8 EiB (binary)": ("application/x-tar", _claiming((1 << 63) - 1, tarfile.GNU_FORMAT)),
    "8 EiB (pax)": ("application/x-tar", _claiming(1 << 63, tarfile.PAX_FORMAT)),
    "less than nothing": ("application/x-tar", _claiming(-512, tarfile.GNU_FORMAT)),
    "text": ("application/x-tar", b"<html>not found</html>" * 100),
}
