"""Every test runs over each kind of destination; that in S3 needs a server that takes a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from knit_workflows.backup.destinations import Destination, open_destination
from tests.contract.destinations.gateway import BUCKET, Gateway, gateway

Opened = Callable[[], Destination]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("s3")) as served:
        yield served


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Opened:
    """Opens one and the same destination, each time as another process would."""
    if request.param == "folder":
        return lambda: open_destination("backup", tmp_path, new=True)
    served: Gateway = request.getfixturevalue("s3")
    for name, value in served.variables.items():
        monkeypatch.setenv(name, value)
    return lambda: open_destination(f"s3://{BUCKET}/{tmp_path.name}/x", tmp_path, new=True)


@pytest.fixture
def destination(opened: Opened) -> Destination:
    return opened()
