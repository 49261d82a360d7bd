"""Downloads through real proxies that cut where they like, from the real API.

The server's side of a proxy may be cut at any byte; what comes of it is the whole, or an error.
"""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from knit_api.transfers.local_volume import LOG_FILE
from knit_cli.api.client import ApiClient, open_api
from knit_cli.errors import ConnectionCut, TransferFailed
from knit_cli.transfer.excluded import Exclusions
from knit_cli.transfer.progress import Silent
from knit_cli.transfer.pull import pull_file, pull_folder, pull_stream
from knit_cli.transfer.run_log import copy_log
from knit_workflows.domain.runs.run import RunStatus
from tests.api.test_downloads import a_data
from tests.api.threaded import LiveApi, live_api
from tests.cli.real_api import files_of
from tests.hops import Hop, hop_to
from tests.waiting import wait_until

FILES = {"a.txt": b"hello", "sub/b.bin": os.urandom(12_000), "zeros": bytes(3000)}

pytestmark = pytest.mark.patient
HOPS = [
    pytest.param({"upstream": True}, id="asks in 1.0"),
    pytest.param({"downstream": True}, id="answers in 1.0"),
    pytest.param({"upstream": True, "downstream": True}, id="asks and answers in 1.0"),
    pytest.param({"rechunk": True}, id="makes chunks of its own"),
    pytest.param({"upstream": True, "rechunk": True}, id="asks in 1.0, makes chunks of its own"),
    pytest.param({}, id="passes on"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("volumes")) as api:
        yield api


@pytest.fixture(params=HOPS)
def hop(api: LiveApi, request: pytest.FixtureRequest) -> Iterator[Hop]:
    with hop_to(api.port, **request.param) as hop:
        yield hop


@pytest.fixture(params=["our transport", "httpx's own"])
def client(hop: Hop, request: pytest.FixtureRequest) -> Iterator[ApiClient]:
    """Where a proxy is in the environment, httpx's own transport carries everything."""
    with open_api(
        f"http://127.0.0.1:{hop.port}/api",
        where="a test",
        verify=None,
        transport=None if request.param == "our transport" else httpx.HTTPTransport(),
        sleep=lambda _: time.sleep(0.01),
        notify=lambda _: None,
    ) as client:
        yield client


def content_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("form", ["folder", "file"])
def test_what_arrives_is_whole_wherever_it_was_cut_before(api, hop, client, form, tmp_path):
    """Begun anew until it is."""
    knit_id = a_data(api.store, api.transfers, files=FILES)
    offsets = [0, 1, 9, 10, 11, 511, 512, 513, 1500, 4096, 9000, 10_239, 10_240]
    for number, offset in enumerate(offsets):
        dest = tmp_path / str(number)
        hop.cuts[:] = [offset, offset]
        if form == "folder":
            assert (
                content_of(pull_folder(client, knit_id, dest, Exclusions(), meter=Silent()))
                == FILES
            )
        else:
            arrived = pull_file(client, knit_id, dest, Exclusions(), meter=Silent())
            assert files_of(gzip.decompress(arrived.read_bytes())) == FILES
        assert len(list(dest.iterdir())) == 1
        assert hop.cuts == []


def test_what_goes_into_a_pipe_is_whole_if_it_was_cut_before_its_first_byte(api, hop, client):
    knit_id = a_data(api.store, api.transfers, files=FILES)
    hop.cuts[:] = [0]
    out: list[bytes] = []
    pull_stream(client, knit_id, out.append, Exclusions(), meter=Silent())
    assert files_of(gzip.decompress(b"".join(out))) == FILES
    assert hop.cuts == []


@pytest.mark.parametrize("form", ["stream", "folder", "file"])
def test_what_is_always_cut_is_an_error_and_leaves_nothing(api, hop, client, form, tmp_path):
    knit_id = a_data(api.store, api.transfers, files=FILES)
    pull = {"folder": pull_folder, "file": pull_file}
    for offset in (0, 10, 700, 1536, 5000):
        hop.cuts[:] = [offset] * 3
        with pytest.raises(ConnectionCut) as raised:
            if form == "stream":
                pull_stream(client, knit_id, lambda _: None, Exclusions(), meter=Silent())
            else:
                pull[form](client, knit_id, tmp_path / "dest", Exclusions(), meter=Silent())
        assert raised.value.advice
        hop.cuts.clear()
    if form != "stream":
        assert list((tmp_path / "dest").iterdir()) == []


@pytest.mark.parametrize("form", ["folder", "file"])
def test_an_archive_that_was_changed_on_its_way_is_damaged(api, form, tmp_path):
    """Its own checksum may be right; the one behind it, which the API made, is not."""
    knit_id = a_data(api.store, api.transfers, files=FILES)

    def changed(chunk: bytes) -> bytes:
        return chunk.replace(b"\x1f\x8b\x08\0\0\0\0\0", b"\x1f\x8b\x08\0\1\0\0\0", 1)

    with (
        hop_to(api.port, change=changed) as hop,
        open_api(
            f"http://127.0.0.1:{hop.port}/api", where="a test",
            verify=None,
            sleep=lambda _: None, notify=lambda _: None,
        ) as client,
    ):  # fmt: skip
        if form == "folder":  # as an older server, that has no plain tar, answers it
            hop.accept = b"application/tar+gzip"
        pull = pull_folder if form == "folder" else pull_file
        with pytest.raises(TransferFailed) as raised:
            pull(client, knit_id, tmp_path, Exclusions(), meter=Silent())
    assert "checksum" in (raised.value.reason or "")
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_whole_wherever_it_was_cut_before(api, hop, client):
    """Also where the proxy hides what HTTP says of its end."""
    said = b"".join(b"line %d\n" % number for number in range(10_000))
    run_id = a_run(api, RunStatus.DONE, said)
    for cuts in ([], [0], [1, 1], [50_000]):
        hop.cuts[:] = cuts
        out: list[bytes] = []
        copy_log(client, run_id, follow=False, write=out.append)
        assert b"".join(out) == said
        assert hop.cuts == []


def test_a_log_is_followed_as_long_as_its_run_goes_on(api, hop, client):
    """Through any number of cuts of a silent connection, each byte once, to the very last.

    Over HTTP/1.0 the API refuses what has no length, and is asked again and again instead.
    """
    run_id = a_run(api, RunStatus.RUNNING, b"begun\n")
    hop.idle = 0.3
    log = api.transfers.folder(api.store.memory.runs[run_id].outputs[None]) / LOG_FILE
    out: list[bytes] = []

    def go_on() -> None:
        for number in range(2):
            seen = len(hop.heads)
            wait_until(lambda seen=seen: len(hop.heads) > seen + 4)  # all of them for nothing
            with log.open("ab") as file:
                file.write(b"line %d\n" % number)
        api.store.set_status(run_id, RunStatus.COMPLETING)
        with log.open("ab") as file:
            file.write(b"last words\n")
        api.store.set_status(run_id, RunStatus.DONE)

    going_on = threading.Thread(target=go_on)
    going_on.start()
    try:
        copy_log(client, run_id, follow=True, write=out.append)
    finally:
        going_on.join()
    assert b"".join(out) == b"begun\nline 0\nline 1\nlast words\n"


def a_run(api: LiveApi, status: RunStatus, said: bytes) -> str:
    run = api.store.add_run(status, log=True)
    folder = api.transfers.folder(run.log.knit_id)
    folder.mkdir(parents=True)
    (folder / LOG_FILE).write_bytes(said)
    return run.summary.run_id
