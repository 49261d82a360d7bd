"""The processes of the embedded stack: how each is started, and how one sees that it is ready."""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from knit_cli.dev.state import Ports, StateFolder
from knit_cli.errors import BadInput
from knit_workflows import embedded

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Service:
    """One process: its command, its environment besides ours, and a quick test of readiness."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    address: str = ""


def services(folder: StateFolder, ports: Ports, database_url: str) -> list[Service]:
    """Give Temporal, worker and API, in the order in which they are started."""
    environment = _environment(folder, ports, database_url)
    return [
        Service(
            "temporal",
            tuple(
                embedded.dev_server_command(
                    _temporal_cli(),
                    folder.temporal_database,
                    port=ports.temporal,
                    ui_port=ports.web_ui,
                )
            ),
            {},
            lambda: _accepts(ports.temporal),
            f"http://{LOOPBACK}:{ports.web_ui}",
        ),
        Service(
            "worker",
            (sys.executable, "-m", "knit_workflows"),
            environment,
            lambda: _has_line(folder.logs / "worker.log", '"worker_ready"'),
        ),
        Service(
            "api",
            (sys.executable, "-m", "knit_api", "--host", LOOPBACK, "--port", str(ports.api)),
            environment,
            lambda: _answers(f"http://{LOOPBACK}:{ports.api}/readyz"),
            api_root(ports),
        ),
    ]


def api_root(ports: Ports) -> str:
    """Give the address that goes into the profile."""
    return f"http://{LOOPBACK}:{ports.api}/api"


def choose_ports(chosen: Mapping[str, int | None], last: Ports | None) -> Ports:
    """Take what the user chose, else the last start's port if it is free, else any free one."""

    def port(name: str) -> int:
        given = chosen.get(name)
        if given:
            return given
        before = getattr(last, name) if last else 0
        return before if before and not _accepts(before) else embedded.free_port()

    return Ports(api=port("api"), temporal=port("temporal"), web_ui=port("web_ui"))


def _environment(folder: StateFolder, ports: Ports, database_url: str) -> dict[str, str]:
    return {
        "KNIT_STORE__URL": database_url,
        "KNIT_COMPUTE__KIND": os.environ.get("KNIT_COMPUTE__KIND", "local"),
        "KNIT_COMPUTE__LOCAL__STATE": str(folder.compute),
        # One process does it all here, so the short activities may share the workflows' queue,
        # where Temporal can hand them over without a round trip.
        "KNIT_QUEUES__COMPUTE": "knit",
        "KNIT_LOG_FORMAT": "json",
        "TEMPORAL_ADDRESS": f"{LOOPBACK}:{ports.temporal}",
        "TEMPORAL_NAMESPACE": "default",
        "PYTHONUNBUFFERED": "1",
    }


def _temporal_cli() -> Path:
    cli = embedded.temporal_cli()
    if cli is None:
        raise BadInput(
            "there is no Temporal command line on this machine",
            reason="neither KNIT_TEMPORAL_CLI, nor PATH, nor this Python's folder has `temporal`",
            advice="install Temporal's CLI, or run `make setup` in knit's repository to build it",
        )
    return cli


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _has_line(log: Path, text: str) -> bool:
    try:
        return text in log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
