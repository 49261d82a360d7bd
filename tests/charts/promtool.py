"""`python -m tests.charts.promtool`: what promtool says of names, help texts and alerts."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from prometheus_client.exposition import generate_latest

from knit_workflows.metrics.instruments import EVERYWHERE, INSTRUMENTS, OF_API, OF_WORKERS
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from tests.charts.helm import CHARTS

DASHBOARD: Final = CHARTS / "knit-app" / "files" / "dashboard.json"
ALERTS: Final = CHARTS / "knit-app" / "files" / "alerts.yaml"
TESTS_OF_ALERTS: Final = Path(__file__).parent / "alerts_test.yaml"
OF_OTHERS: Final = frozenset(
    {
        # Of Temporal's core.
        "temporal_activity_schedule_to_start_latency_seconds_bucket",
        # Of the client library.
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    }
)
"""What the dashboard shows and we do not measure; `tests/workflows/test_start_up` reads it from a
real worker."""
PROMTOOL: Final = GoPrograms(
    name="promtool-3.11.3",
    module=Path(__file__).parent / "programs" / "promtool",
    packages=("github.com/prometheus/prometheus/cmd/promtool",),
    # Without the clouds in which Prometheus could look for what to scrape.
    tags=("remove_all_sd",),
    takes="three to six minutes, once",
)


def exposition() -> bytes:
    """All that we measure, each with a series: what has none is not looked at."""
    for one in INSTRUMENTS:
        if one._labelnames:
            one.labels(*["promtool"] * len(one._labelnames))
    return b"".join(map(generate_latest, (EVERYWHERE, OF_API, OF_WORKERS)))


def dashboard_expressions() -> dict[str, list[str]]:
    """The expressions of Grafana's dashboard, by panel, as Prometheus gets them."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        panel["title"]: [
            one["expr"].replace("$__rate_interval", "5m").replace("$namespace", "knit")
            for one in panel.get("targets", [])
        ]
        for panel in panels
        if panel["type"] != "row"
    }


def rules_of_dashboard() -> str:
    """The same, as rules: promtool has no other way to look at many."""
    exprs = [one for many in dashboard_expressions().values() for one in many]
    rules = [{"record": f"knit:panel:{place}", "expr": one} for place, one in enumerate(exprs)]
    return json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})


def built() -> Path:
    """Gives promtool, built when it is not there."""
    return build_if_needed(PROMTOOL) / "promtool"


def check_names(promtool: Path) -> None:
    """Looks at the names, types and help texts of all that we measure."""
    _run([promtool, "check", "metrics"], given=exposition())


def check_dashboard(promtool: Path, folder: Path) -> None:
    """Parses all expressions of the dashboard."""
    (folder / "dashboard.yaml").write_text(rules_of_dashboard())
    _run([promtool, "check", "rules", folder / "dashboard.yaml"])


def check_alerts(promtool: Path, folder: Path) -> None:
    """Parses the alerts, and carries out their unit tests."""
    for file in (ALERTS, TESTS_OF_ALERTS):
        shutil.copy(file, folder)
    _run([promtool, "check", "rules", folder / ALERTS.name])
    _run([promtool, "test", "rules", folder / TESTS_OF_ALERTS.name])


def _run(command: list[str | Path], given: bytes = b"") -> None:
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def main() -> None:
    """Ends with an error at the first complaint."""
    promtool = built()
    with tempfile.TemporaryDirectory() as name:
        check_names(promtool)
        check_dashboard(promtool, Path(name))
        check_alerts(promtool, Path(name))
    print("names, help texts, dashboard and alerts: SUCCESS")


if __name__ == "__main__":
    main()
