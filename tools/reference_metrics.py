"""The page of the metrics, from the instruments and from the alerts of the chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from knit_workflows.metrics.instruments import INSTRUMENTS, OF_API, OF_WORKERS

ALERTS: Final = Path(__file__).parents[1] / "charts" / "knit-app" / "files" / "alerts.yaml"
INTRODUCTION: Final = """
What API and workers tell Prometheus, and what the chart alerts on; how to have it scraped is in
[the guide](../how-to/metrics.md).

Of a histogram there are `NAME_bucket`, with the label `le`, `NAME_sum` and `NAME_count`; the last
one is the number of requests, calls or Runs.
"""
OTHERS: Final = """
Besides these there are `process_…` (memory, CPU, open files) of the Prometheus client library, and
`temporal_…` of [Temporal's SDK](https://docs.temporal.io/references/sdk-metrics), with the endings
that Prometheus wants: `temporal_request_total`, `temporal_request_latency_seconds`.
"""


def metric_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Gives name, type, labels, whose it is, and meaning of each metric."""
    apis, workers = ({one.name for one in it.collect()} for it in (OF_API, OF_WORKERS))
    for one in INSTRUMENTS:
        labels = ", ".join(f"`{name}`" for name in one._labelnames) or "–"
        whose = "API" if one._name in apis else "workers" if one._name in workers else "all"
        yield f"`{_name(one)}`", _kind(one), labels, whose, one._documentation


def alert_rows() -> Iterator[tuple[str, str, str, str]]:
    """Gives name, severity, how long it must last, and what it says, of each alert."""
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            told = f"{rule['annotations']['summary']} {rule['annotations']['description']}"
            for label in ("role", "component", "kind", "destination"):
                told = told.replace(f"{{{{ $labels.{label} }}}}", label.upper())
            told = told.replace("{{ $value | humanizeDuration }}", "…")
            yield f"`{rule['alert']}`", rule["labels"]["severity"], rule.get("for", "–"), told


def _name(one: MetricWrapperBase) -> str:
    return f"{one._name}_total" if isinstance(one, Counter) else one._name


def _kind(one: MetricWrapperBase) -> str:
    kinds = ((Counter, "counter"), (Histogram, "histogram"))
    return next((name for kind, name in kinds if isinstance(one, kind)), "gauge")
