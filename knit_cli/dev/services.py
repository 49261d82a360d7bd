"""The processes of the embedded stack: how each is started, and how one sees that it is ready."""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knit_cli.dev.dev_folder import DevFolder, Ports
from knit_cli.dev.ports import LOOPBACK, listens
from knit_cli.dev.prerequisites import require_temporal
from knit_workflows import embedded
from knit_workflows.embedded import EmbeddedPostgres

OWNER_VARIABLE: Final = "KNIT_DEV_STATE"
"""In the environment of every process: the state folder it belongs to."""
TEMPORAL: Final = ("server", "start-dev")
COMMAND_FORMS: Final = (("-m", "knit_workflows"), ("-m", "knit_api"), TEMPORAL)
"""What the command lines of our processes have in common, besides PostgreSQL's."""
NICENESS: Final = 5
"""How much the worker that carries out Runs stands back behind what people wait for."""


@dataclass(frozen=True)
class Service:
    """One process: how it is started and ended, and a quick test of readiness by process id."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[int], bool]
    needs: tuple[str, ...] = ()
    """Services that must be ready before this one is started."""
    user: str | None = None
    group: int | None = None
    """The system's user that runs it, and its group, if it is not ours."""
    niceness: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    prepare: Callable[[], None] = field(default=lambda: None)
    """Called before every start; blocks."""
    on_ready: Callable[[], None] = field(default=lambda: None)
    """Called when it has become ready, before what needs it is started; blocks."""


def services(
    folder: DevFolder, ports: Ports, database: EmbeddedPostgres, migrate: Callable[[], None]
) -> list[Service]:
    """Gives PostgreSQL, Temporal, workers and API, in the order in which they are started."""
    environment = _environment(folder, ports, database.address())
    python = (sys.executable, "-P", "-m")  # -P: modules are never taken from the working folder

    def worker(name: str, roles: str, niceness: int = 0) -> Service:
        return Service(
            name,
            (*python, "knit_workflows", "--roles", roles),
            environment,
            lambda _: _has_line(folder.log(name), '"worker_ready"'),
            needs=("postgres", "temporal"),
            niceness=niceness,
        )

    return [
        Service(
            "postgres",
            database.command(),
            environment,
            database.is_ready,
            user=database.user,
            group=database.group,
            stop_signal=signal.SIGINT,  # fast: SIGTERM would wait for its clients
            prepare=database.before_start,
            on_ready=migrate,
        ),
        Service(
            "temporal",
            _temporal(folder, ports),
            environment,
            lambda pid: listens(pid, ports.temporal) and listens(pid, ports.web_ui),
        ),
        worker("worker", "engine,compute,watch", niceness=NICENESS),
        # A process of its own, so that a burst of Runs neither fills its slots nor holds up its
        # event loop, nor takes the core from it.
        worker("worker-interactive", "interactive"),
        Service(
            "api",
            (*python, "knit_api", "--host", LOOPBACK, "--port", str(ports.api)),
            environment,
            lambda pid: listens(pid, ports.api) and _answers(f"{_origin(ports)}/readyz"),
            needs=("postgres", "temporal"),
        ),
    ]


def api_root(ports: Ports) -> str:
    """Gives the address that goes into the profile."""
    return f"{_origin(ports)}/api"


def _temporal(folder: DevFolder, ports: Ports) -> tuple[str, ...]:
    cli, database = require_temporal(), folder.temporal_database
    return tuple(
        embedded.dev_server_command(cli, database, port=ports.temporal, ui_port=ports.web_ui)
    )


def _origin(ports: Ports) -> str:
    return f"http://{LOOPBACK}:{ports.api}"


def _environment(folder: DevFolder, ports: Ports, database_url: str) -> dict[str, str]:
    # What the user has set for another Temporal (TLS, a key, a profile) must not get into ours.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
    return {
        **inherited,
        OWNER_VARIABLE: str(folder.root),
        "KNIT_STORE__URL": database_url,
        "KNIT_STORE__FOLDER": str(folder.postgres),
        "KNIT_STORE__RESERVE": str(folder.reserve),
        "KNIT_COMPUTE__KIND": os.environ.get("KNIT_COMPUTE__KIND", "local"),
        "KNIT_COMPUTE__LOCAL__STATE": str(folder.compute),
        # One process does it all here, so the short activities may share the workflows' queue,
        # where Temporal can hand them over without a round trip.
        "KNIT_QUEUES__COMPUTE": "knit",
        "KNIT_LOG_FORMAT": "json",
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "TEMPORAL_ADDRESS": f"{LOOPBACK}:{ports.temporal}",
        "TEMPORAL_NAMESPACE": "default",
        "PYTHONUNBUFFERED": "1",
    }


def _answers(url: str) -> bool:
    # Not by the proxy that HTTP_PROXY may name: it cannot reach this machine's own API.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=4) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _has_line(log: Path, text: str) -> bool:
    try:
        return text in log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
