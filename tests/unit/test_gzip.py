"""What the API sends as gzip: any reader's gzip, small where that is worth the time."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator

import pytest

from knit_api.transfers.codecs import GZIPPED_TAR, PLAIN_TAR, Decoder, Encoder

NOISE = random.Random(3).randbytes(1 << 20)
WORDS = b"".join(b"line %d of a log, %d\n" % (n, n * 7919) for n in range(60_000))[: 1 << 20]


def pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def encoded(content: bytes, size: int, media_type: str = GZIPPED_TAR) -> bytes:
    encoder = Encoder(media_type)
    return b"".join([*(encoder.encode(one) for one in pieces(content, size)), encoder.finish()])


@pytest.mark.parametrize("size", [999, 65_536, 300_000, 1 << 20])
@pytest.mark.parametrize(
    "content",
    [b"", b"x", NOISE, WORDS, bytes(1 << 20), NOISE + WORDS + NOISE[:7] + bytes(70_000)],
    ids=["nothing", "a byte", "noise", "words", "zeros", "a bit of each"],
)
def test_any_reader_of_gzip_finds_what_was_sent(content: bytes, size: int) -> None:
    body = encoded(content, size)
    assert gzip.decompress(body) == content
    decoder = Decoder(GZIPPED_TAR, with_checksum=False)
    found = bytearray()
    for one in pieces(body, 70_000):
        decoder.feed(one)
        while chunk := decoder.read():
            found += chunk
    decoder.finish(None)
    assert found == content


@pytest.mark.parametrize(
    ("content", "most"), [(WORDS, 0.35), (NOISE, 1.001), (bytes(1 << 20), 0.01)]
)
def test_it_is_small_where_that_is_worth_the_time(content: bytes, most: float) -> None:
    assert len(encoded(content, 4_000)) < most * len(content)


def test_a_plain_archive_is_sent_as_it_is() -> None:
    assert encoded(WORDS, 4_000, PLAIN_TAR) == WORDS
