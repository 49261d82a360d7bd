"""The API process: `python -m knit_api --host 127.0.0.1 --port 8080`.

The composition root: here, and only here, the real store and Temporal are chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from knit_api.accounts.access import Accounts
from knit_api.accounts.loopback import BindRefused, check_bind
from knit_api.accounts.verifiers import ProviderVerifier
from knit_api.app import create_app
from knit_api.census import Census
from knit_api.deps import Deps, EngineClient, Lazy
from knit_api.extra.in_force import ExtraApis
from knit_api.server.sockets import DetachableProtocol
from knit_api.server.streams import cancel_and_wait
from knit_api.server.tls import Certificate, CertificateRefused
from knit_api.watchdog import watched
from knit_workflows import log as logs
from knit_workflows import tracing
from knit_workflows.client import KnitClient
from knit_workflows.domain.errors import EngineUnavailable, StoreUnavailable
from knit_workflows.domain.imports import ImportTimes
from knit_workflows.domain.ports import ApiStore
from knit_workflows.metrics import exposition
from knit_workflows.metrics.instruments import OF_API
from knit_workflows.open_files import allow_open_files
from knit_workflows.settings import AccountSettings, Settings, SettingsRefused, read_settings
from knit_workflows.settings.extra_apis import ExtraApisRefused
from knit_workflows.store import PostgresStore
from knit_workflows.temporal.connection import client_config, connect
from knit_workflows.temporal.telemetry import set_up_telemetry
from knit_workflows.tracing import process as traced_process

log = logging.getLogger(__name__)

SHUTDOWN_GRACE_PERIOD: Final = 10
"""Seconds that open requests may take to end after SIGTERM."""
_REFUSALS: Final = (
    BindRefused,
    SettingsRefused,
    ExtraApisRefused,
    CertificateRefused,
    exposition.AddressInUse,
)
"""Why it does not even start."""
_OPEN_FILES: Final = 65_536
"""Each client has a connection, and each transfer some more and files."""
LEAVES_AFTER: Final = 11.0
"""Seconds in which two probes of the chart fail, so that nobody is sent here any more."""


def deps_from(settings: Settings) -> Deps:
    """Gives the API's parts as the settings say; nothing is connected. Raises SettingsRefused."""

    async def connect_store() -> ApiStore:
        store = PostgresStore(settings.store)
        try:
            await store.open()
        except BaseException:
            await store.aclose()
            raise
        return watched(store)

    async def close_store() -> None:
        if store.connected is not None:
            await store.connected.aclose()

    store: Lazy[ApiStore] = Lazy(connect_store, StoreUnavailable)
    return Deps(
        store=store,
        transfers=Lazy(_transfers(settings), EngineUnavailable),
        accounts=Accounts(settings.accounts, store.get, _providers(settings.accounts)),
        lease=settings.engine.transfer_lease,
        imports=ImportTimes(settings.engine.import_window, settings.engine.import_key_life),
        new_runs=settings.engine.new_runs_limit,
        plan_pod_keys=settings.compute.plan_pod_keys,
        disk=settings.store.folder,
        extra_apis=ExtraApis(settings.extra_apis),
        close_store=close_store,
    )


def _providers(settings: AccountSettings) -> Sequence[ProviderVerifier]:
    if not settings.required or settings.oidc_issuer is None:
        return ()
    # Signatures with public keys cost memory that an API without a provider need not have.
    from knit_api.accounts.oidc import OidcVerifier, issuer_client

    return (OidcVerifier(settings, issuer_client(settings)),)


def _transfers(settings: Settings) -> Callable[[], Awaitable[EngineClient]]:
    # Read at once, so that an unreadable configuration is reported at the start.
    config = client_config()

    async def connect_transfers() -> EngineClient:
        return KnitClient(
            await connect(config),
            lease=settings.engine.transfer_lease,
            opening=settings.engine.open_deadline,
            heartbeat=settings.engine.heartbeat,
            step_timeout=settings.engine.step_timeout,
            queues=settings.queues,
            versioning=settings.versioning,
        )

    return connect_transfers


Metrics = AbstractAsyncContextManager[object]
"""Serves metrics while inside."""


class Server(uvicorn.Server):
    """uvicorn's server; it sets an event as soon as a signal asks it to end.

    Files of a certificate are followed while it serves, and the database, beyond which it must not
    go on.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        deps: Deps,
        certificate: Certificate | None,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(config)
        self._deps = deps
        self._certificate = certificate
        self._metrics = metrics or nullcontext()
        self._following: list[asyncio.Future[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where: whoever asked for port 0 learns it here."""
        await super().startup(sockets)
        if self.started:
            # What exists by now stays: collecting it again and again would delay one request in a
            # hundred by more than that request takes.
            gc.collect()
            gc.freeze()
            self._following.append(asyncio.ensure_future(self._leave_when_older()))
            if self._certificate is not None:
                self._following.append(asyncio.ensure_future(self._certificate.follow()))
            await self._metrics.__aenter__()
            host, port, *_ = self.servers[0].sockets[0].getsockname()
            log.info("API is ready", extra={"action": "api_ready", "host": host, "port": port})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends; see the base class."""
        if self._following:
            await cancel_and_wait(*self._following)
            await self._metrics.__aexit__(None, None, None)
        await super().shutdown(sockets)
        # Here, since uvicorn then raises the signal once more, which ends the process.
        await asyncio.to_thread(tracing.stop)

    async def _leave_when_older(self) -> None:
        """Ends the process once the database is newer; probes tell so first."""
        await self._deps.schema.follow(self._deps.store.get)
        log.warning("leaves: %s", self._deps.schema.reason, extra={"action": "api_leaves"})
        await asyncio.sleep(LEAVES_AFTER)
        self._deps.stopping.set()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal; endless streams check the event a few times per second."""
        self._deps.stopping.set()
        super().handle_exit(sig, frame)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: they go from 0 to 65535")
    return port


def _certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise CertificateRefused("--tls-cert and --tls-key belong together: give both, or none")
    certificate = Certificate(chain, key)
    certificate.load()
    return certificate


def _settings(extra_apis: Path | None) -> Settings:
    settings = read_settings()
    if extra_apis is None:
        return settings
    extra = settings.extra_apis.model_copy(update={"config": extra_apis})
    return settings.model_copy(update={"extra_apis": extra})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m knit_api", description="Serves knit's Web API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=8080, help="0 takes a free one")
    parser.add_argument(
        "--extra-apis-config",
        type=Path,
        metavar="FILE",
        help="lists paths that other services serve (default: KNIT_EXTRA_APIS__CONFIG)",
    )
    parser.add_argument(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="serve HTTPS with this certificate chain (PEM); a changed file is taken at once",
    )
    parser.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="the key of that certificate (PEM)"
    )
    exposition.add_argument(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and serves until SIGTERM or SIGINT."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = _settings(options.extra_apis_config)
        check_bind(options.host, required=settings.accounts.required)
        deps = deps_from(settings)
        deps.extra_apis.load()
        certificate = _certificate(options.tls_cert, options.tls_key)
        listener = exposition.listen(options.metrics_address)
    except _REFUSALS as refused:
        parser.error(str(refused))
    logs.set_up(settings.log_format, settings.log_level)
    allow_open_files(_OPEN_FILES)
    core_port = set_up_telemetry(settings.log_format, with_metrics=listener is not None)
    traced_process.start("knit-api")
    metrics = exposition.serving(
        listener, "api", OF_API, core_port=core_port, refresh=Census(deps.store.get).refresh
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # we log what it would
    app = create_app(deps, loopback_names_only=not settings.accounts.required)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=DetachableProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # It would believe every client of this machine; whom to believe is a setting of ours.
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_PERIOD,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.front(),
    )
    Server(config, deps, certificate, metrics).run()
    if deps.schema.reason is not None:
        log.error("API ended: %s", deps.schema.reason, extra={"action": "api_ended"})
        parser.exit(1)


if __name__ == "__main__":
    main()
