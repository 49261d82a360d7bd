"""The processes of the embedded stack: how each is started, and how its readiness is checked."""

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
"""Environment variable of every process that names its state folder."""
TEMPORAL: Final = ("server", "start-dev")
COMMAND_FORMS: Final = (("-m", "knit_workflows"), ("-m", "knit_api"), TEMPORAL)
"""How the command lines of our processes begin, except PostgreSQL's."""
_PYTHON: Final = (sys.executable, "-P", "-m")
"""-P: never imports modules from the working directory."""
NICENESS: Final = 5
"""Lower priority of the worker that executes Runs, compared with what people wait for."""


@dataclass(frozen=True)
class Service:
    """One process: how to start and stop it, and a quick readiness check by process id."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[int], bool]
    needs: tuple[str, ...] = ()
    """Services that must be ready before this one starts."""
    user: str | None = None
    group: int | None = None
    """The system user and group that run it; None: our own."""
    niceness: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    prepare: Callable[[], None] = field(default=lambda: None)
    """Called before every start; may block."""
    on_ready: Callable[[], None] = field(default=lambda: None)
    """Called when it is ready, before its dependents start; may block."""


def services(
    folder: DevFolder,
    ports: Ports,
    database: EmbeddedPostgres,
    migrate: Callable[[], None],
    settings: Mapping[str, str],
) -> list[Service]:
    """Gives PostgreSQL, Temporal, workers and API, in start order.

    `settings` are more variables of their environment, besides those that the stack itself needs.
    """
    environment = environment_of(folder, ports, database.address(), settings)
    # Without a file those of the last time would stay in force.
    environment.setdefault("KNIT_HOOKS__FILE", os.devnull)
    return [
        _postgres(database, environment, migrate),
        Service(
            "temporal",
            _temporal(folder, ports),
            environment,
            lambda pid: listens(pid, ports.temporal) and listens(pid, ports.web_ui),
        ),
        _worker(folder, "worker", "engine,compute,watch,backup", environment, niceness=NICENESS),
        # A separate process, so that a burst of Runs neither fills its slots nor blocks its event
        # loop, nor takes its CPU.
        _worker(folder, "worker-interactive", "interactive,hooks", environment),
        Service(
            "api",
            (*_PYTHON, "knit_api", "--host", LOOPBACK, "--port", str(ports.api)),
            environment,
            lambda pid: listens(pid, ports.api) and _answers(f"{_origin(ports)}/readyz"),
            needs=("postgres", "temporal"),
        ),
    ]


def _postgres(
    database: EmbeddedPostgres, environment: Mapping[str, str], migrate: Callable[[], None]
) -> Service:
    return Service(
        "postgres",
        database.command(),
        environment,
        database.is_ready,
        user=database.user,
        group=database.group,
        stop_signal=signal.SIGINT,  # fast: SIGTERM would wait for its clients
        prepare=database.before_start,
        on_ready=migrate,
    )


def _worker(
    folder: DevFolder, name: str, roles: str, environment: Mapping[str, str], niceness: int = 0
) -> Service:
    return Service(
        name,
        (*_PYTHON, "knit_workflows", "--roles", roles),
        environment,
        lambda _: _has_line(folder.log(name), '"worker_ready"'),
        needs=("postgres", "temporal"),
        niceness=niceness,
    )


def api_root(ports: Ports) -> str:
    """Gives the API's address for the profile."""
    return f"{_origin(ports)}/api"


def _temporal(folder: DevFolder, ports: Ports) -> tuple[str, ...]:
    cli, database = require_temporal(), folder.temporal_database
    return tuple(
        embedded.dev_server_command(cli, database, port=ports.temporal, ui_port=ports.web_ui)
    )


def _origin(ports: Ports) -> str:
    return f"http://{LOOPBACK}:{ports.api}"


def environment_of(
    folder: DevFolder, ports: Ports, database_url: str, settings: Mapping[str, str]
) -> dict[str, str]:
    """Gives the environment of the stack's processes, and of what joins them."""
    # The user's settings for another Temporal (TLS, a key, a profile), or for another PostgreSQL
    # (`PG*` of libpq), must not leak into ours.
    own = embedded.without_libpq_variables(os.environ)
    inherited = {k: v for k, v in own.items() if not k.startswith("TEMPORAL_")}
    return {
        **inherited,
        **settings,
        OWNER_VARIABLE: str(folder.root),
        "KNIT_STORE__URL": database_url,
        "KNIT_STORE__FOLDER": str(folder.postgres),
        "KNIT_STORE__RESERVE": str(folder.reserve),
        "KNIT_COMPUTE__KIND": os.environ.get("KNIT_COMPUTE__KIND", "local"),
        "KNIT_COMPUTE__LOCAL__STATE": str(folder.compute),
        # One process does everything here, so short activities share the workflows' queue, where
        # Temporal can start them eagerly, without a round trip.
        "KNIT_QUEUES__COMPUTE": "knit",
        # Whoever reaches this machine's loopback is its user.
        "KNIT_ACCOUNTS__REQUIRED": os.environ.get("KNIT_ACCOUNTS__REQUIRED", "false"),
        # Here a hook's receiver is usually a program that is being written, on this machine.
        "KNIT_HOOKS__ALLOW_LOOPBACK": "true",
        "KNIT_LOG_FORMAT": "json",
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "TEMPORAL_ADDRESS": f"{LOOPBACK}:{ports.temporal}",
        "TEMPORAL_NAMESPACE": "default",
        "PYTHONUNBUFFERED": "1",
    }


def _answers(url: str) -> bool:
    # Without the proxy of HTTP_PROXY, which cannot reach this machine's own API.
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
