"""Which libraries the processes of an installation load: what a role does not use costs MiB each.

The figures themselves are those of `python -m tests.bench installed-memory`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import certifi
import pytest

from knit_workflows.plugin import Role

pytestmark = pytest.mark.patient

HEAVY = {"kubernetes", "requests", "oauthlib", "httpx", "rich", "pygments", "alembic", "sqlalchemy"}
"""What no process needs on a cluster while nothing happens; each is there for something else."""
_PRINT = "import json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
_WORKER = f"""
import asyncio, sys
from pathlib import Path
from knit_workflows import log
from knit_workflows.compute.kubernetes.api import credentials
from knit_workflows.plugin import Role
from knit_workflows.settings import read_settings
from knit_workflows.temporal.telemetry import set_up_telemetry
from knit_workflows.worker import deps_from

async def open_what_a_worker_opens(role):
    settings = read_settings()
    log.set_up(settings.log_format, settings.log_level)
    set_up_telemetry(settings.log_format)
    deps = deps_from(settings, frozenset({{role}}))
    assert deps.activities(frozenset({{role}}))
    if deps._opens_backend:
        await deps.backend.open()
        await deps.backend.aclose()

credentials.of_service_account.__defaults__ = (
    {{"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}}, Path(sys.argv[2])
)
asyncio.run(open_what_a_worker_opens(Role(sys.argv[1])))
{_PRINT}
"""
_API = f"""
import sys
from knit_api.__main__ import deps_from
from knit_api.app import create_app
from knit_workflows import log
from knit_workflows.settings import read_settings

settings = read_settings()
log.set_up(settings.log_format, settings.log_level)
create_app(deps_from(settings))
{_PRINT}
"""


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("secret")
    (tmp_path / "ca.crt").symlink_to(certifi.where())
    return tmp_path


def loaded(program: str, *arguments: str) -> set[str]:
    """The libraries that a program has loaded with the settings that the chart gives."""
    settings = {"KNIT_COMPUTE__KIND": "kubernetes", "KNIT_LOG_FORMAT": "json"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, env=settings, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("role", [Role.ENGINE, Role.HOOKS])
def test_a_worker_without_rights_has_no_http_client(role: Role, account: Path) -> None:
    """Until the first call of a hook; the API server is none of their business."""
    assert not loaded(_WORKER, role, str(account)) & (HEAVY | {"aiohttp"})


@pytest.mark.parametrize("role", [Role.COMPUTE, Role.WATCH, Role.INTERACTIVE])
def test_a_worker_in_a_pod_has_one_http_client(role: Role, account: Path) -> None:
    modules = loaded(_WORKER, role, str(account))
    assert "aiohttp" in modules
    assert not modules & HEAVY


def test_an_idle_api_has_no_http_client() -> None:
    assert not loaded(_API) & (HEAVY | {"aiohttp"})
