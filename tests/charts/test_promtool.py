"""What Prometheus' own tool says of names, help texts, alerts and the dashboard's expressions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.charts import promtool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # where it has to be built first


@pytest.fixture(scope="module")
def program() -> Path:
    return promtool.built()


def test_names_and_help_texts_are_as_prometheus_wants_them(program: Path) -> None:
    promtool.check_names(program)


def test_a_name_that_is_not_is_seen(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promtool, "exposition", lambda: b"# TYPE runs counter\nruns 1\n")
    with pytest.raises(AssertionError, match="_total"):
        promtool.check_names(program)


def test_the_dashboards_expressions_are_valid(program: Path, tmp_path: Path) -> None:
    promtool.check_dashboard(program, tmp_path)


def test_each_alert_fires_when_it_should(program: Path, tmp_path: Path) -> None:
    promtool.check_alerts(program, tmp_path)
