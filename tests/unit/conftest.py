"""Raw tar bytes, made by hand: what no well-meaning tool would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.waiting import wait_until

END = bytes(1024)


def _entry(
    name: bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    mode: int = 0o644,
    size: int | None = None,
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One entry: header, content, padding. `size` lies about the content's length."""
    said = len(content) if size is None else size
    block = b"".join([
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0" * 2, b"%011o\0" % said,
        b"%011o\0" % 1_700_000_000, b" " * 8, kind, link.ljust(100, b"\0"), magic, bytes(64),
        b"0000000\0" * 2, prefix.ljust(167, b"\0"),
    ])  # fmt: skip
    assert len(block) == 512, len(block)
    block = block[:148] + b"%06o\0 " % sum(block) + block[156:]
    return block + content + bytes(-len(content) % 512)


def _pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax header with these records."""
    text = b""
    for key, value in records.items():
        body = b" " + key + b"=" + value + b"\n"
        length = next(n for n in range(len(body), len(body) + 12) if n == len(b"%d" % n + body))
        text += b"%d" % length + body
    return _entry(b"pax", text, kind=kind)


@pytest.fixture
def entry() -> Callable[..., bytes]:
    return _entry


@pytest.fixture
def pax() -> Callable[..., bytes]:
    return _pax


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder inside another, so that what escapes it is seen."""
    root = tmp_path / "outer" / "root"
    root.mkdir(parents=True)
    return root


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits for a condition."""
    return wait_until
