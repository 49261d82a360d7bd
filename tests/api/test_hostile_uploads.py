"""Uploads that are meant to exhaust a server: it refuses them, tidies up, and does not grow.

What is merely wrong (paths, links, devices, cut streams) is in `test_uploads`; these come over a
socket to a process of its own, whose memory is measured.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.test_processes import MIB, memory_of, memory_server

GZIP, TAR = "application/tar+gzip", "application/x-tar"
MOST_GROWTH = 60
"""MiB; far more than is needed, far less than what is sent."""


pytestmark = pytest.mark.patient


def header(name: str, size: int = 0) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def empty_files(count: int) -> Iterator[bytes]:
    """Headers of so many empty files in folders of a thousand, quickly made."""
    block = bytearray(header("f" * 12))
    block[148:156] = b" " * 8
    plain = sum(block) - sum(block[:12])
    for first in range(0, count, 1000):
        piece = bytearray()
        for number in range(first, first + 1000):
            block[:12] = b"d%04d/f%05d" % (number // 1000, number % 1000)
            block[148:156] = b"%06o\0 " % (plain + sum(block[:12]))
            piece += block
        yield bytes(piece)


def gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def zeros(count: int) -> Iterator[bytes]:
    """So many MiB of zeros as gzip members of a KiB each: nothing is cheaper to send."""
    member = gzip.compress(bytes(MIB))
    for _ in range(count):
        yield member


def attack(
    folder: Path, media_type: str, pieces: Iterator[bytes], most_growth: int = MOST_GROWTH
) -> httpx.Response:
    """Pushes to a process of its own; sees that nothing remains of it, in its memory neither."""
    with (
        memory_server(folder) as (pid, url),
        httpx.Client(trust_env=False, timeout=300) as client,
    ):
        assert client.get(url).status_code == 200
        before = memory_of(pid, "VmHWM")
        answer = client.post(url, content=pieces, headers={"Content-Type": media_type})
        assert memory_of(pid, "VmHWM") - before <= most_growth
        states = [one["upstream"]["run"]["status"] for one in client.get(url).json()]
        assert states == ["failed"]
    assert [list(volume.iterdir()) for volume in folder.iterdir()] == [[]]
    assert answer.json()["message"]["advice"]
    return answer


def test_ten_gibibytes_of_nothing_are_refused(tmp_path: Path):
    """Zeros end an archive; that so many follow is what gives the bomb away."""
    assert attack(tmp_path, GZIP, zeros(10 << 10)).status_code == 400


def test_a_header_that_is_as_large_as_a_disk_is_refused(tmp_path: Path):
    """The size of a pax header is the sender's word; none is collected to the end."""
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 8 << 30

    def pieces() -> Iterator[bytes]:
        yield gzip.compress(member.tobuf())
        yield from zeros(8 << 10)

    assert attack(tmp_path, GZIP, pieces()).status_code == 400


def test_headers_without_end_are_refused(tmp_path: Path):
    """Long names, each for an entry that never comes."""
    long_name = tarfile.TarInfo("x" * 4000).tobuf(tarfile.GNU_FORMAT)[: 512 + 4096]
    assert attack(tmp_path, GZIP, gzipped(iter([long_name] * 50_000))).status_code == 400


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_very_many_empty_files_that_lack_their_end_leave_none(tmp_path: Path):
    """Nor is anything kept for each: 16 MiB are less than 70 bytes, and four times what it takes.

    A million shows no more, and to make and remove them takes minutes.
    """
    answer = attack(tmp_path, GZIP, gzipped(empty_files(250_000)), most_growth=16)
    assert answer.status_code == 400


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_empty_files_are_no_crime(tmp_path: Path):
    """They are taken, in constant memory, and can be pulled again."""
    count = 100_000

    def pieces() -> Iterator[bytes]:
        yield from empty_files(count)
        yield bytes(1024)

    with (
        memory_server(tmp_path) as (pid, url),
        httpx.Client(trust_env=False, timeout=300) as client,
    ):
        before = memory_of(pid, "VmHWM")
        answer = client.post(url, content=gzipped(pieces()), headers={"Content-Type": GZIP})
        assert answer.status_code == 200, answer.text
        knit_id = answer.json()["knitId"]
        folders = list((tmp_path / knit_id).iterdir())
        assert len(folders) == count // 1000
        assert all(sum(1 for _ in folder.iterdir()) == 1000 for folder in folders)
        with client.stream("GET", f"{url}/{knit_id}", headers={"Accept": TAR}) as download:
            pulled = sum(len(piece) for piece in download.iter_raw())
        assert pulled >= count * 512
        assert memory_of(pid, "VmHWM") - before <= MOST_GROWTH


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("claimed", [8 << 40, 64 << 20], ids=["8 TiB", "64 MiB"])
def test_a_bomb_fills_the_volume_and_is_cleared_away(small_disk: Path, claimed: int):
    """A few KiB sent, far more unpacked: the volume's own size is the limit."""

    def pieces() -> Iterator[bytes]:
        yield gzip.compress(header("bomb", claimed))
        yield from zeros(64)
        yield gzip.compress(bytes(1024))

    assert attack(small_disk, GZIP, pieces()).status_code == 507
