"""The API as a process: what it needs to start, how it ends, and how much memory it takes."""

from __future__ import annotations

import gzip
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.otlp import collector
from tests.waiting import PATIENCE, wait_until

MIB = 1 << 20
SIZE = 300 * MIB


def memory_of(pid: int, field: str) -> int:
    """A figure of a process in MiB: VmRSS (now) or VmHWM (the most so far)."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) // 1024


@dataclass
class Api:
    """A process of the API, its address, and what it logs."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def waits_for(self, *parts: str) -> None:
        """Waits until it has reached these parts, which takes as long as a connection does."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE) as client:
            wait_until(lambda: not [one for one in parts if one in _away(client)])

    def end(self) -> str:
        """SIGTERM, and wait; gives the log."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        return self.log.read_text()


def _away(client: httpx.Client) -> str:
    """What `/readyz` says of the parts that are not there; nothing when all are."""
    answer = client.get("/readyz")
    return "" if answer.status_code == 200 else str(answer.json()["message"]["reason"])


@contextmanager
def api(folder: Path, *arguments: str, **environment: str) -> Iterator[Api]:
    """Runs `python -m knit_api` on a port of its own choice; it logs into the folder."""
    command = [sys.executable, "-m", "knit_api", "--port", "0", *arguments]
    log = folder / "api.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "KNIT_LOG_FORMAT": "json",
                "KNIT_ACCOUNTS__REQUIRED": "false",
                "KNIT_EXTRA_APIS__CONNECT_TIMEOUT": f"PT{PATIENCE:.0f}S",
                **environment,
            },
            stderr=output,
        ) as process,
    ):
        one = Api(process, log)
        try:
            until = time.monotonic() + PATIENCE
            while not (ready := re.search(r'"api_ready".*"port": (\d+)', log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            one.url = f"http://127.0.0.1:{ready[1]}"
            yield one
        finally:
            if process.poll() is None:
                process.kill()


NOBODY = {
    "KNIT_STORE__URL": "postgresql://127.0.0.1:1/none",
    "TEMPORAL_ADDRESS": "127.0.0.1:1",
}


@pytest.mark.patient
def test_it_starts_and_answers_while_everything_is_away_and_ends_when_told(tmp_path: Path):
    with (
        api(tmp_path, **NOBODY) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client,
    ):
        assert client.get("/healthz").status_code == 200
        for path in ("/api/data", "/readyz", "/api/runs"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json()["message"]["advice"]
        assert memory_of(running.pid, "VmRSS") <= 120
        running.end()
        assert running.process.returncode in (0, -signal.SIGTERM)


@pytest.mark.patient
def test_what_it_has_traced_is_sent_before_a_signal_ends_it(tmp_path: Path) -> None:
    """uvicorn raises the signal once more, and what would follow is not carried out."""
    with collector() as receiving:
        traced = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiving.origin,
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "NO_PROXY": "127.0.0.1",
        }
        with api(tmp_path, **NOBODY, **traced) as running:
            with httpx.Client(base_url=running.url, trust_env=False, timeout=PATIENCE) as client:
                assert client.get("/api/version").status_code == 200
                assert client.get("/healthz").status_code == 200
            running.end()
            assert running.process.returncode in (0, -signal.SIGTERM)
    assert [one.name for one in receiving.spans] == ["GET /api/version"]


@pytest.mark.patient
def test_it_does_not_listen_where_others_could_come():
    command = [sys.executable, "-m", "knit_api", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(
        command,
        env={**os.environ, "KNIT_ACCOUNTS__REQUIRED": "false"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "KNIT_ACCOUNTS__REQUIRED=true" in done.stderr


@contextmanager
def memory_server(folder: Path) -> Iterator[tuple[int, str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.api.memory_server", folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield process.pid, f"http://127.0.0.1:{port}/api/data"
        process.communicate("")


def archive_pieces(gzipped: bool) -> Iterator[bytes]:
    """A tar of one large file, as many gzip members if wanted, without holding it."""
    member = tarfile.TarInfo("big")
    member.size = SIZE
    block = random.Random(1).randbytes(MIB // 64) * 64
    packed = gzip.compress(block, 1) if gzipped else block
    head, end = member.tobuf(), bytes(1024)
    yield gzip.compress(head) if gzipped else head
    for _ in range(SIZE // MIB):
        yield packed
    yield gzip.compress(end) if gzipped else end


@pytest.mark.patient
@pytest.mark.parametrize("media_type", ["application/tar+gzip", "application/x-tar"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, media_type: str):
    gzipped = media_type == "application/tar+gzip"
    with (
        memory_server(tmp_path) as (pid, url),
        httpx.Client(trust_env=False, timeout=PATIENCE) as client,
    ):
        assert client.get(url).status_code == 200
        before = memory_of(pid, "VmHWM")
        answer = client.post(
            url, content=archive_pieces(gzipped), headers={"Content-Type": media_type}
        )
        assert answer.status_code == 200, answer.text
        knit_id = answer.json()["knitId"]
        assert (tmp_path / knit_id / "big").stat().st_size == SIZE
        with client.stream("GET", f"{url}/{knit_id}", headers={"Accept": media_type}) as download:
            got = sum(len(piece) for piece in download.iter_raw())
        assert got > (0 if gzipped else SIZE)
        assert memory_of(pid, "VmHWM") - before <= 40


@pytest.mark.patient
def test_metrics_have_a_port_of_their_own(tmp_path: Path) -> None:
    """With a database that is away, they say so, and nothing of Runs."""
    nobody = {"KNIT_STORE__URL": "postgresql://127.0.0.1:1/knit"}
    with api(tmp_path, "--metrics-address", "127.0.0.1:0", **nobody) as one:
        served = re.search(r'"metrics_served".*"port": (\d+)', one.log.read_text())
        assert served
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            assert client.get(f"{one.url}/metrics").status_code == 404
            told = client.get(f"http://127.0.0.1:{served[1]}/metrics").text
    assert "\nknit_database_up 0.0\n" in told
    assert "\nknit_runs{" not in told
    counted = (
        'knit_http_request_duration_seconds_count{method="GET",route="(none)",status="4xx"} 1.0'
    )
    assert counted in told


@pytest.mark.patient
def test_an_address_for_metrics_that_is_in_use_is_refused_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "knit_api", "--port", "0", "--metrics-address", address]
        environment = {**os.environ, "KNIT_ACCOUNTS__REQUIRED": "false"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert f"--metrics-address {address}: Address already in use" in done.stderr
