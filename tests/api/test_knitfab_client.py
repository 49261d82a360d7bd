"""Knitfab's own command line goes on working: its requests, over a raw socket, to the real API."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import io
import json
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pytest

from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import knit_environment
from tests.api.test_processes import api
from tests.api.test_real_parts import environment_of
from tests.waiting import PATIENCE

TRANSCRIPT = Path(__file__).with_name("knitfab_v1_6_1.txt")


@dataclass
class Step:
    """One request as it was written, with places for ids, and what its answer must be."""

    name: str
    status: int = 0
    until: str = ""
    head: list[str] = field(default_factory=list)
    body: bytes = b""


def steps() -> Iterator[Step]:
    text = TRANSCRIPT.read_text()
    for block in text.split("\n=== ")[1:]:
        name, expected, *lines = block.split("\n")
        step = Step(name)
        _, status, *until = expected.split()
        step.status, step.until = int(status), until[-1] if until else ""
        gap = lines.index("")
        step.head = lines[:gap]
        for line in filter(None, lines[gap:]):
            kind, _, content = line.partition(" ")
            if kind == "chunk":
                chunk = base64.b64decode(content)
                step.body += b"%x\r\n%s\r\n" % (len(chunk), chunk)
            elif kind == "trailer":
                step.body += b"0\r\n%s\r\n\r\n" % content.encode()
            else:
                assert kind == "text"
                step.body += content.encode()
        yield step


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        assert self.body.endswith(b"\n")
        return json.loads(self.body)


def fields_of(lines: BinaryIO) -> dict[str, str]:
    found = {}
    while line := lines.readline().strip():
        name, _, value = line.decode().partition(": ")
        found[name.lower()] = value
    return found


def read_answer(stream: BinaryIO) -> Answer:
    """Reads one answer, as Go's client does: by its length or its chunks, never to the close."""
    status = int(stream.readline().split()[1])
    headers, trailers, body = fields_of(stream), {}, b""
    assert "content-encoding" not in headers  # Go would undo a gzip that it did not ask for
    if headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            assert stream.readline() == b"\r\n"
        trailers = fields_of(stream)
    elif status != 204:
        body = stream.read(int(headers["content-length"]))
    return Answer(status, headers, body, trailers)


class Walk:
    """Sends the steps over one connection that is kept, and knows the ids so far."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        assert target.hostname and target.port
        self.ids = {"host": target.netloc}
        self._connection = socket.create_connection((target.hostname, target.port), PATIENCE)
        self._stream = self._connection.makefile("rb")

    def close(self) -> None:
        self._stream.close()
        self._connection.close()

    def take(self, step: Step) -> Answer:
        head = "\r\n".join([*step.head, "", ""]).format(**self.ids)
        ends = time.monotonic() + PATIENCE
        while True:
            self._connection.sendall(head.encode() + step.body)
            answer = read_answer(self._stream)
            assert answer.status == step.status, (step.name, answer)
            if not step.until or [one["status"] for one in answer.json] == [step.until]:
                return answer
            assert time.monotonic() < ends, (step.name, answer)
            time.sleep(0.1)


def pulled(answer: Answer) -> list[tarfile.TarInfo]:
    """The entries of a download whose end and checksum are as that client wants them."""
    assert answer.headers["content-type"] == "application/tar+gzip"
    assert answer.headers["trailer"].lower() == "x-checksum-md5"
    assert answer.trailers == {"x-checksum-md5": hashlib.md5(answer.body).hexdigest()}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(answer.body))) as archive:
        return archive.getmembers()


@pytest.mark.engine
@pytest.mark.patient
async def test_the_walk_of_knitfabs_client(postgres: EmbeddedPostgres, tmp_path: Path):
    async with knit_environment(postgres=postgres) as knit:
        with api(tmp_path, **environment_of(knit)) as running, closing(Walk(running.url)) as walk:
            await asyncio.to_thread(running.waits_for, "store", "engine")
            await asyncio.to_thread(walked, walk)


def walked(walk: Walk) -> None:
    script = steps()

    def go(name: str) -> Answer:
        step = next(script)
        assert step.name == name
        return walk.take(step)

    data = go("push: the archive").json
    walk.ids["knitId"] = data["knitId"]
    assert data["upstream"]["run"]["status"] == "done"
    assert data["upstream"]["mountpoint"] == {"path": "/upload", "tags": []}
    tagged = go("push: its tags").json
    assert {"type:raw", "project:walk"} < set(tagged["tags"])
    assert [one["knitId"] for one in go("data find").json] == [data["knitId"]]

    entries = pulled(go("pull -x"))
    # It makes a file of every entry that is no link: one for a folder would be in the way.
    assert {one.name: one.type for one in entries} == {
        "a.txt": tarfile.REGTYPE,
        "sub/deep/b.txt": tarfile.REGTYPE,
        "sub/link": tarfile.SYMTYPE,
    }

    plan = go("plan apply").json
    walk.ids["planId"] = plan["planId"]
    assert (plan["active"], plan["resources"]) == (True, {"cpu": "1", "memory": "1Gi"})
    assert go("plan show").json["planId"] == plan["planId"]
    (run,) = go("run find").json
    walk.ids |= {"runId": run["runId"], "outId": run["outputs"][0]["knitId"]}
    assert run["inputs"][0]["knitId"] == data["knitId"]
    assert go("run show").json == run
    log = go("run show --log")
    assert log.headers["content-type"] == "application/octet-stream"
    assert go("run show --log --follow").body == log.body

    assert "checked:yes" in go("data tag").json["tags"]
    (made,) = go("data lineage: the Data").json
    assert made["upstream"]["run"]["runId"] == run["runId"]
    assert go("data lineage: its Run").json["runId"] == run["runId"]
    (used,) = go("data lineage: what that used").json
    assert used["knitId"] == data["knitId"]

    walk.ids["idlePlanId"] = go("plan apply: one that stays inactive").json["planId"]
    (idle,) = go("run find: one to stop").json
    walk.ids["idleRunId"] = idle["runId"]
    stopped = go("run stop --fail").json
    assert (stopped["status"], stopped["exit"]["code"]) == ("aborting", 253)

    assert go("run retry").body == b""
    (again,) = go("run find: done again").json
    assert again["runId"] == run["runId"]
    assert again["outputs"][0]["knitId"] != run["outputs"][0]["knitId"]
    assert go("run rm").body == b""
    assert go("run show: invalidated").json["status"] == "invalidated"
    assert next(script, None) is None
