"""Certificates of an authority of the tests' own, and callers."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from knit_workflows.hooks.caller import HookCaller, HookMessage
from knit_workflows.settings import HookSettings

MESSAGE = HookMessage(
    "0d2b7b5c-0000-5000-8000-000000000001",
    1,
    {
        "runId": "r",
        "status": "ready",
        "updatedAt": "2024-05-17T04:19:33.325+00:00",
        "plan": {"planId": "p", "args": ["ü\n🦊"]},
        "transition": {"from": "ready", "to": "starting", "generation": 1, "attempt": 1},
    },
    wants_environment=True,
)
BODY = (
    '{"runId":"r","status":"ready","updatedAt":"2024-05-17T04:19:33.325+00:00",'
    '"plan":{"planId":"p","args":["ü\\n🦊"]},'
    '"transition":{"from":"ready","to":"starting","generation":1,"attempt":1}}'
)
Callers = Callable[..., HookCaller]


@pytest.fixture
async def caller_with() -> AsyncIterator[Callers]:
    """Makes callers that may call this machine; environment and names are given or empty."""
    made: list[HookCaller] = []

    def make(
        *, lookup: Any = None, variables: Any = (), clock: Any = None, **settings: Any
    ) -> HookCaller:
        given = {"lookup": lookup, "clock": clock}
        more = {name: value for name, value in given.items() if value is not None}
        chosen = HookSettings(**{"allow_loopback": True, **settings})
        made.append(HookCaller(chosen, variables=dict(variables), **more))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: `ca.pem`, and below it `server` (hook.example, 127.0.0.1) and `old`, expired."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for ca in ("ca", "other"):
        openssl(*new, "-x509", "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}",
                "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    (folder / "ext").write_text(
        "subjectAltName=IP:127.0.0.1,DNS:hook.example\nauthorityKeyIdentifier=keyid\n"
    )
    for name, days in (("server", "2"), ("old", "-1")):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", days, "-extfile", "ext",
                "-out", f"{name}.pem")  # fmt: skip
    return folder


def server_context(certificates: Path, name: str = "server") -> ssl.SSLContext:
    """What a receiver shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context
