"""The API with extra APIs, behind a real socket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from knit_api.deps import Deps
from knit_api.extra.endpoints import Endpoint, Endpoints
from knit_api.extra.in_force import ExtraApis
from knit_workflows.settings import ExtraApisSettings
from tests.waiting import PATIENCE

PutInForce = Callable[..., None]


@pytest.fixture
def extra(deps: Deps) -> PutInForce:
    """Puts `/x` in force, or other paths, for ports of this machine; `limits` are settings."""

    def put_in_force(
        port: int,
        proxy_to: str = "http://127.0.0.1:{port}/base",
        path: str = "/x",
        **limits: object,
    ) -> None:
        limits = {"connect_timeout": PATIENCE, "keep_alive": PATIENCE, **limits}
        spans = {
            name: timedelta(seconds=value) if isinstance(value, float) else value
            for name, value in limits.items()
        }
        extra = ExtraApis(ExtraApisSettings(**spans))
        extra.endpoints = Endpoints([Endpoint(path, proxy_to.format(port=port))])
        deps.extra_apis.close()  # with the connections that it keeps
        object.__setattr__(deps, "extra_apis", extra)

    return put_in_force
