"""helm 3 and helm 4 for the tests of charts; the first test that asks for one may build it."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_workflows.provision.cache import SetUpError
from tests.charts.helm import HELMS, Helm, program

BUILD_TIMEOUT = 1800
"""Seconds. On a fresh, busy machine a helm takes minutes to build."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT))


@pytest.fixture(scope="session", params=HELMS)
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    try:
        program(request.param)
    except SetUpError as error:
        pytest.skip(str(error))
    return Helm(request.param, tmp_path_factory.mktemp(request.param))
