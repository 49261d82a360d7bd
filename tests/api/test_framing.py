"""Every answer says where it ends: by its length or in chunks; HTTP/1.0 has no chunks."""

from __future__ import annotations

import gzip
import os
import re
from uuid import uuid4

import pytest
from fastapi import FastAPI

from knit_api.transfers.local_volume import LocalVolume
from knit_workflows.archive import Form
from knit_workflows.domain.runs.run import RunStatus
from tests.api.archives import HELLO, files_in
from tests.api.live_server import talk, unchunked
from tests.api.test_downloads import a_data

_BODIES = {"POST": b"{}", "PUT": b"{}"}


def requests_of(app: FastAPI, ids: dict[str, str]) -> list[tuple[str, str]]:
    """Every method and path of the API, and some that it does not have."""
    found = [
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in [*methods, "head"]
    ]
    assert len(found) > 30
    found += [("GET", "/api/nothing"), ("PATCH", "/api/data"), ("GET", "/api/data?limit=x")]
    found += [("GET", "/api/openapi.json"), ("GET", "/api/docs"), ("GET", "/")]
    return [(method, re.sub(r"\{(\w+)\}", lambda one: ids[one[1]], path)) for method, path in found]


def raw(method: str, path: str, version: str, *headers: str) -> bytes:
    body = _BODIES.get(method, b"")
    lines = [f"{method} {path} HTTP/{version}", "Host: x", "Connection: close", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def checked(method: str, answer: bytes) -> tuple[int, bytes]:
    """Status and content of an answer that says where it ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    version, code, *_ = head.split(b" ", 2)
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    status = int(code)
    if method == "HEAD" or status in (204, 304):
        assert body == b""
    elif b"content-length" in headers:
        assert b"transfer-encoding" not in headers
        assert len(body) == int(headers[b"content-length"])
    else:
        assert headers[b"transfer-encoding"] == b"chunked"
        body, _, complete = unchunked(body)
        assert complete
    assert version == b"HTTP/1.1"
    return status, body


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.patient
async def test_every_route_says_where_its_answers_end(app, port, store, transfers, version):
    knit_id = a_data(store, transfers)
    run = store.add_run(RunStatus.DONE, log=True)
    (transfers.folder(run.log.knit_id)).mkdir(parents=True)
    (transfers.folder(run.log.knit_id) / "log").write_text("said\n")
    ids = {"knit_id": knit_id, "run_id": run.summary.run_id, "plan_id": run.summary.plan.plan_id}
    ids |= {"delivery_id": str(uuid4()), "token_id": str(uuid4())}
    seen = set()
    for method, path in requests_of(app, ids):
        answer = await talk(port, raw(method, path, version))
        status, _ = checked(method, answer)
        seen.add(status)
        if version == "1.0":
            assert b"transfer-encoding" not in answer.partition(b"\r\n\r\n")[0].lower()
    assert {200, 400, 404, 405} <= seen


async def test_what_is_no_http_gets_a_whole_answer_too(port):
    status, body = checked("GET", await talk(port, b"nonsense\r\n\r\n"))
    assert (status, body) == (400, b"Invalid HTTP request received.\n")


SIZES = [0, 1, 65534, 65535, 65536, 3 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("accept", ["application/x-tar", "application/tar+gzip"])
async def test_an_archive_has_a_length_over_http_1_0(port, store, transfers, accept, size):
    """A proxy that is cut sees it then, and so does whoever is behind it."""
    files = {**HELLO, "x": os.urandom(size)}
    knit_id = a_data(store, transfers, files=files)
    request = raw("GET", f"/api/data/{knit_id}", "1.0", f"Accept: {accept}")
    status, body = checked("GET", await talk(port, request))
    assert status == 200
    assert files_in(body if accept.endswith("x-tar") else gzip.decompress(body)) == files
    assert [ok for _, ok, _ in transfers.ended] == [True]


async def test_what_cannot_be_packed_is_told_over_http_1_0_too(port, store, transfers):
    knit_id = store.add_run(RunStatus.DONE).outputs[0].knit_id
    status, body = checked("GET", await talk(port, raw("GET", f"/api/data/{knit_id}", "1.0")))
    assert status == 404
    assert b"no content" in body


@pytest.mark.parametrize("change", ["longer", "shorter"])
async def test_an_archive_that_changes_meanwhile_is_cut(
    port, store, transfers, change, monkeypatch
):
    """What was announced and what is sent are one, or the connection ends before it should."""
    knit_id = a_data(store, transfers, files={"x": b"x" * 2000})
    measured = LocalVolume.archive_bytes

    async def then_changed(volume: LocalVolume, form: Form) -> int:
        size = await measured(volume, form)
        path = transfers.folder(knit_id) / "x"
        path.write_bytes(b"x" * (9000 if change == "longer" else 3))
        return size

    monkeypatch.setattr(LocalVolume, "archive_bytes", then_changed)
    answer = await talk(
        port, raw("GET", f"/api/data/{knit_id}", "1.0", "Accept: application/x-tar")
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = re.findall(rb"content-length: (\d+)", head.lower())
    assert len(body) < int(length)
    assert transfers.failures


@pytest.mark.parametrize("offset", [10**9, 10**18 - 1])
async def test_an_offset_behind_a_gigabyte_is_one(port, store, transfers, offset):
    """A log of 10⁹ bytes and more can be followed to its end, and resumed."""
    run = store.add_run(RunStatus.RUNNING, log=True)
    folder = transfers.folder(run.log.knit_id)
    folder.mkdir(parents=True)
    (folder / "log").write_bytes(b"short\n")
    path = f"/api/runs/{run.summary.run_id}/log?offset="
    status, body = checked("GET", await talk(port, raw("GET", f"{path}{offset}", "1.1")))
    assert status == 409
    assert b"was retried" in body
    status, body = checked("GET", await talk(port, raw("GET", f"{path}{10**18}", "1.1")))
    assert status == 400


@pytest.mark.patient
async def test_a_log_has_a_length_and_can_be_had_from_an_offset(port, store, transfers):
    run = store.add_run(RunStatus.RUNNING, log=True)
    folder = transfers.folder(run.log.knit_id)
    folder.mkdir(parents=True)
    whole = b"".join(b"line %d\n" % number for number in range(100_000))
    (folder / "log").write_bytes(whole)
    path = f"/api/runs/{run.summary.run_id}/log"
    for version in ("1.0", "1.1"):
        for offset in (0, 1, len(whole) - 1, len(whole)):
            answer = await talk(port, raw("GET", f"{path}?offset={offset}", version))
            assert b"content-length: " in answer.partition(b"\r\n\r\n")[0].lower()
            assert f"log-offset: {offset}\r\n".encode() in answer.lower()
            assert f"log-size: {len(whole)}\r\n".encode() in answer.lower()
            assert checked("GET", answer) == (200, whole[offset:])
        behind = raw("GET", f"{path}?offset={len(whole) + 1}", version)
        status, body = checked("GET", await talk(port, behind))
        assert status == 409
        assert b"was retried" in body
    for wrong in ("x", "-1", ""):
        status, _ = checked("GET", await talk(port, raw("GET", f"{path}?offset={wrong}", "1.1")))
        assert status == 400


async def test_a_log_is_not_followed_over_http_1_0(port, store, transfers):
    """Nobody knows its length, and a proxy that is cut would take it for ended."""
    run = store.add_run(RunStatus.RUNNING, log=True)
    transfers.folder(run.log.knit_id).mkdir(parents=True)
    path = f"/api/runs/{run.summary.run_id}/log?follow"
    answer = await talk(port, raw("GET", path, "1.0"))
    status, body = checked("GET", answer)
    assert status == 426
    assert b"upgrade: http/1.1" in answer.lower()
    assert b"proxy_http_version" in body
    assert not transfers.open
