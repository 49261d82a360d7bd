"""Everything that knit measures, by name; the table of the guide to metrics is made from it.

Names follow Prometheus: base units, `_total` for counters. Labels have few values, known before:
never a Run, a Data or a user, each of which would make a series that lasts for ever. Plans, in one
gauge only, are at most `MOST_PLANS` at a time.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

EVERYWHERE: Final = CollectorRegistry()
OF_API: Final = CollectorRegistry()
OF_WORKERS: Final = CollectorRegistry()
"""What each process exposes, the API, workers. Apart, or a worker would say that 0 Runs wait."""
MOST_PLANS: Final = 20
"""So many Plans are named by `PLAN_RUNS`; users make as many of them as they like."""
OTHER_PLANS: Final = "other"
"""What it names instead of all others; no id, since ids are UUIDs."""
_QUICK: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)
_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200)

# One more series for each, which says when it was made: nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=EVERYWHERE)

BUILD: Final = Gauge(
    "knit_build_info",
    "Always 1; which version this is, and what this process does.",
    ("version", "component"),
    registry=EVERYWHERE,
)
LOOP_LAG: Final = Histogram(
    "knit_event_loop_lag_seconds",
    "How much later than asked for the event loop went on, looked at once a second.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=EVERYWHERE,
)

DATABASE_CONNECTIONS: Final = Gauge(
    "knit_database_connections",
    "Connections to PostgreSQL that are held, by state: `in_use` or `idle`.",
    ("state",),
    registry=EVERYWHERE,
)
DATABASE_LIMIT: Final = Gauge(
    "knit_database_connections_limit",
    "How many connections may be in use at once.",
    registry=EVERYWHERE,
)
DATABASE_WAITING: Final = Gauge(
    "knit_database_waiting_calls",
    "Calls that wait for a connection because all are in use.",
    registry=EVERYWHERE,
)

HTTP_DURATION: Final = Histogram(
    "knit_http_request_duration_seconds",
    "Requests of the Web API: how long until a response began. `route` is as in the reference, "
    "`status` a class such as `2xx`.",
    ("method", "route", "status"),
    buckets=_QUICK,
    registry=OF_API,
)
TRANSFERS_OPEN: Final = Gauge(
    "knit_transfers_open",
    "Transfers that this API process carries out now, logs included, by `direction`.",
    ("direction",),
    registry=OF_API,
)
TRANSFERS_ENDED: Final = Counter(
    "knit_transfers_ended_total",
    "Transfers that have ended, by `direction` (`upload`, `download`) and `outcome` (`complete`, "
    "`aborted`).",
    ("direction", "outcome"),
    registry=OF_API,
)
TRANSFER_BYTES: Final = Counter(
    "knit_transfer_bytes_total",
    "Bytes of archives and logs between clients and this API process, as they were sent.",
    ("direction",),
    registry=OF_API,
)

DATABASE_UP: Final = Gauge(
    "knit_database_up",
    "Whether PostgreSQL has answered when Runs were last counted: 1 or 0.",
    registry=OF_API,
)
RUNS: Final = Gauge(
    "knit_runs",
    "Runs that have not ended, by `status`, uploads and imports included; the same from every API "
    "process.",
    ("status",),
    registry=OF_API,
)
PLAN_RUNS: Final = Gauge(
    "knit_plan_runs",
    "The same Runs by Plan and `status`. `plan` is the image, or the name of a built-in Plan; the "
    f"{MOST_PLANS} Plans with the most of these Runs are there, all others together are the "
    f"`plan_id` and `plan` `{OTHER_PLANS}`.",
    ("plan_id", "plan", "status"),
    registry=OF_API,
)
OLDEST_WAITING: Final = Gauge(
    "knit_runs_oldest_waiting_age_seconds",
    "For how long the Run has waited that has waited for the longest time; 0 if none waits.",
    registry=OF_API,
)

WORKER_READY: Final = Gauge(
    "knit_worker_ready",
    "Whether this worker can work: 1, or 0 while it waits for what it needs, such as Temporal or "
    "the database; its log and `/readyz` name it. `component` is as in `knit_build_info`.",
    ("component",),
    registry=OF_WORKERS,
)
RUNS_ENDED: Final = Counter(
    "knit_runs_ended_total",
    "Runs with a container that this worker has ended, by `status`: `done` or `failed`.",
    ("status",),
    registry=OF_WORKERS,
)
PHASE_DURATION: Final = Histogram(
    "knit_run_phase_duration_seconds",
    "How long Runs that have ended were in each `phase`.",
    ("phase",),
    buckets=_LONG,
    registry=OF_WORKERS,
)
HOOK_DURATION: Final = Histogram(
    "knit_hook_call_duration_seconds",
    "Calls of hooks, by `phase` (`before`, `after`) and `outcome` (`succeeded`, `failed`).",
    ("phase", "outcome"),
    buckets=_QUICK,
    registry=OF_WORKERS,
)
WATCH_AGE: Final = Gauge(
    "knit_kubernetes_watch_age_seconds",
    "How long ago the API server has last been heard of by the watch of this `kind`; without any "
    "change it lets itself be heard about every 60 s.",
    ("kind",),
    registry=OF_WORKERS,
)
KUBERNETES_REQUESTS: Final = Counter(
    "knit_kubernetes_requests_total",
    "Answers of the API server, by `verb` (`read`, `watch`, `create`, `patch`, `delete`), `kind` "
    "and `status`, which is HTTP's.",
    ("verb", "kind", "status"),
    registry=OF_WORKERS,
)
BACKUP_SUCCESS: Final = Gauge(
    "knit_backup_last_success_timestamp_seconds",
    "When the last backup that the schedule has taken into its `destination` was complete, in "
    "seconds since 1970; before the first one: when the schedule was made.",
    ("destination",),
    registry=OF_WORKERS,
)
BACKUP_PERIOD: Final = Gauge(
    "knit_backup_period_seconds",
    "The longest time between two of the next scheduled backups; not there while the schedule is "
    "paused.",
    ("destination",),
    registry=OF_WORKERS,
)

# There before the first of its kind: a counter that begins with 1 has never been seen to increase.
for _status in ("done", "failed"):
    RUNS_ENDED.labels(_status)
for _direction in ("upload", "download"):
    TRANSFERS_OPEN.labels(_direction)
    TRANSFER_BYTES.labels(_direction)
    for _outcome in ("complete", "aborted"):
        TRANSFERS_ENDED.labels(_direction, _outcome)

INSTRUMENTS: Final[tuple[MetricWrapperBase, ...]] = tuple(
    one for one in globals().copy().values() if isinstance(one, MetricWrapperBase)
)
"""All of them, in order."""
