"""Figures of the store on embedded PostgreSQL, one JSON line each; nothing is asserted.

`python -m tests.bench.store_figures [figure …]`; without names all of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import psycopg
from pydantic import SecretStr

warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")

from knit_workflows.domain.data import DataQuery, TagChange  # noqa: E402
from knit_workflows.domain.plans.model import PlanQuery  # noqa: E402
from knit_workflows.domain.ports import AdmissionLimits  # noqa: E402
from knit_workflows.domain.runs.run import RunQuery, RunStatus  # noqa: E402
from knit_workflows.settings import StoreSettings  # noqa: E402
from knit_workflows.store import PostgresStore, migrate  # noqa: E402
from knit_workflows.testing import embedded_postgres  # noqa: E402
from tests.store.build import begin, drain, end, register, spec, tags, upload  # noqa: E402

PROJECTS, TYPES, DATA = 10, 100, 100_000

FILL = """
INSERT INTO tag (digest, key, value)
SELECT sha256(convert_to(key, 'UTF8') || '\\x00' || convert_to(value, 'UTF8')), key, value FROM (
    SELECT 'project', 'p' || n FROM generate_series(0, %(projects)s - 1) n UNION ALL
    SELECT 'type', 't' || n FROM generate_series(0, %(types)s - 1) n UNION ALL
    SELECT 'serial', 's' || n FROM generate_series(1, %(data)s) n) AS t (key, value)
ON CONFLICT DO NOTHING;
CREATE TEMP TABLE bulk AS
SELECT n, gen_random_uuid() AS run_id, gen_random_uuid() AS knit_id
  FROM generate_series(1, %(data)s) n;
INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
SELECT run_id, (SELECT plan_id FROM plan WHERE name = 'knit#uploaded'), 'done', now(), now()
  FROM bulk;
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT knit_id, run_id, (SELECT output_id FROM plan_output WHERE path = '/upload'),
       'data-knitid-' || knit_id, now() - n * interval '1s'
  FROM bulk;
INSERT INTO data_tag (tag_id, knit_id)
SELECT t.tag_id, b.knit_id FROM bulk b
  JOIN tag t ON t.key = 'project' AND t.value = 'p' || b.n %% %(projects)s UNION ALL
SELECT t.tag_id, b.knit_id FROM bulk b
  JOIN tag t ON t.key = 'type' AND t.value = 't' || b.n / %(projects)s %% %(types)s UNION ALL
SELECT t.tag_id, b.knit_id FROM bulk b
  JOIN tag t ON t.key = 'serial' AND t.value = 's' || b.n;
UPDATE data_tag SET timestamp = data.timestamp FROM data WHERE data.knit_id = data_tag.knit_id;
ANALYZE;
"""


def emit(figure: str, times: list[float], **more: Any) -> None:
    ordered = sorted(times)
    print(
        json.dumps(
            {
                "figure": figure,
                "p50_ms": round(1000 * ordered[len(ordered) // 2], 2),
                "p99_ms": round(1000 * ordered[int(len(ordered) * 0.99)], 2),
                "min_ms": round(1000 * ordered[0], 2),
                "n": len(ordered),
                **more,
            }
        ),
        flush=True,
    )


async def timed(call: Awaitable[Any], into: list[float]) -> Any:
    began = time.perf_counter()
    answer = await call
    into.append(time.perf_counter() - began)
    return answer


async def one_run(store: PostgresStore, url: str) -> None:
    """The database's part of one Run: from the event to its end."""
    await register(store, spec({"/in": "k:a"}, {"/out": "k:b"}, log="k:log"))
    await drain(store)
    created: list[float] = []
    moves: list[float] = []
    ends: list[float] = []
    for _ in range(300):
        key, knit_id = await begin(store)
        await store.data.change_tags(knit_id, TagChange(add=tags("k:a")))
        await drain(store)
        await end(store, key)
        began = time.perf_counter()
        await store.projection.project(page_size=500)
        (run,) = await store.admission.admit(AdmissionLimits())
        created.append(time.perf_counter() - began)
        await store.admission.started([run.key])
        for status in ("ready", "starting", "running", "completing"):
            await timed(store.execution.advance(run.key, RunStatus(status), cause="bench"), moves)
        await timed(store.execution.finalize(run.key, cause="bench"), ends)
        await drain(store)
    emit("store.project_and_admit_one_run", created)
    emit("store.advance", moves)
    emit("store.finalize", ends)


async def known(store: PostgresStore, url: str) -> None:
    """10,000 known combinations (100 × 100), evaluated again."""
    await register(store, spec({"/a": "k:a", "/b": "k:b"}, image="square:1"))
    for kind in ("k:a", "k:b"):
        for _ in range(100):
            await upload(store, kind)
    await drain(store, page_size=500)
    emit("store.known_10000_combinations", [await _again(store, url, "square")])


async def _again(store: PostgresStore, url: str, repository: str) -> float:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO outbox (kind, subject, created_at)"
            " SELECT 'plan_registered', plan_id, now() FROM plan WHERE repository = %s",
            [repository],
        )
    began = time.perf_counter()
    created = await drain(store, page_size=500)
    assert created == 0
    return time.perf_counter() - began


async def crowd(store: PostgresStore, url: str) -> None:
    """One new Data among 100,000 Data and 1,000 Plans; then what lists and details cost there."""
    for number in range(PROJECTS * TYPES):
        wish = f"project:p{number % PROJECTS} type:t{number // PROJECTS}"
        wishes = {"/a": wish} if number % 5 else {"/a": wish, "/b": "type:none"}
        await register(store, spec(wishes, {"/out": f"made:m{number}"}, image=f"crowd:{number}"))
    await drain(store)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        psycopg.ClientCursor(connection) as cursor,
    ):
        cursor.execute(FILL, {"projects": PROJECTS, "types": TYPES, "data": DATA})
    one: list[float] = []
    details: list[float] = []
    for turn in range(100):
        key, knit_id = await begin(store)
        number = 7 * turn + 1
        wish = f"project:p{number % PROJECTS} type:t{number // PROJECTS}"
        await store.data.change_tags(knit_id, TagChange(add=tags(wish)))
        await drain(store)
        await end(store, key)
        await timed(store.projection.project(page_size=500), one)
        await timed(store.data.get(knit_id), details)
    emit("store.one_new_data_100k_x_1k", one)
    emit("store.data_detail_100k_x_1k", details)
    late: list[float] = []
    again: list[float] = []
    registered: list[float] = []
    for number in range(5):
        wanted = spec({"/a": f"project:p{number} type:t50"}, image=f"late:{uuid4()}")
        await timed(store.plans.register(wanted, new_runs_limit=10_000), registered)
        await timed(drain(store, page_size=500), late)
    emit("store.register_plan_100k_x_1k", registered)
    emit("store.project_late_plan_100_runs", late)
    await lists(store)
    await register(store, spec({"/a": "project:p3"}, image="wide:1"))
    began = time.perf_counter()
    created = await drain(store, page_size=500)
    emit("store.project_late_plan", [time.perf_counter() - began], runs=created)
    again.append(await _again(store, url, "wide"))
    emit("store.known_combinations_one_input", again, runs=created)


QUEUES: dict[str, tuple[int, int]] = {"of_1_plan": (1, 1_000_000), "of_1k_plans": (1_000, 1_000)}
"""Plans, and Runs of each that wait: a million in all."""

FILL_QUEUE = """
INSERT INTO run (run_id, plan_id, assignment_hash, status, priority, created_at, updated_at)
SELECT gen_random_uuid(), plan_id, decode(md5(plan_id::text || n), 'hex'), 'waiting',
       place %% 3, now() - n * interval '1ms', now()
  FROM (SELECT plan_id, row_number() OVER (ORDER BY plan_id) AS place
          FROM plan WHERE repository = %(image)s) AS plans
 CROSS JOIN generate_series(1, %(runs)s) AS n;
ANALYZE run;
"""


async def queue(store: PostgresStore, url: str) -> None:
    """Admission among a million waiting Runs, and what it costs to say why one of them waits."""
    for name, (plans, runs) in QUEUES.items():
        for number in range(plans):
            wish = {"/a": f"project:{name} serial:{number}"}
            await register(store, spec(wish, image=f"{name}:{number}"))
        await drain(store)
        with (
            psycopg.connect(url, autocommit=True) as connection,
            psycopg.ClientCursor(connection) as cursor,
        ):
            cursor.execute(FILL_QUEUE, {"image": name, "runs": runs})
        await _admit_among(store, name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("TRUNCATE run_event, run_input, data_tag, data, run, transfer")


async def _admit_among(store: PostgresStore, name: str) -> None:
    waiting = RunQuery(statuses=frozenset({RunStatus.WAITING}))
    admitting: list[float] = []
    for turn in range(1, 21):
        admitted = await timed(store.admission.admit(AdmissionLimits(total=64 * turn)), admitting)
        await store.admission.started([run.key for run in admitted])
    emit(f"store.admit_64_of_1m_waiting_{name}", admitting, admitted=len(admitted))
    full: list[float] = []
    reading: list[float] = []
    for _ in range(20):
        await timed(store.admission.admit(AdmissionLimits(total=64 * 20)), full)
        await timed(store.runs.find(waiting, limit=100), reading)
    emit(f"store.admit_none_of_1m_waiting_{name}", full)
    emit(f"store.find_waiting_runs_page_100_of_1m_{name}", reading)


async def lists(store: PostgresStore) -> None:
    """The lists of the API in a crowded store."""
    both = DataQuery(tags=tuple(tags("project:p1 type:t1")))
    waiting = RunQuery(statuses=frozenset({RunStatus.WAITING}))
    calls: dict[str, Callable[[], Awaitable[Sequence[object]]]] = {
        "find_plans_1k": lambda: store.plans.find(PlanQuery()),
        "find_plans_page_100": lambda: store.plans.find(PlanQuery(), limit=100),
        "find_data_page_100": lambda: store.data.find(DataQuery(), limit=100),
        "find_data_by_tags": lambda: store.data.find(both),
        "find_runs_page_100": lambda: store.runs.find(RunQuery(), limit=100),
        "find_waiting_runs_page_100": lambda: store.runs.find(waiting, limit=100),
    }
    for figure, find in calls.items():
        took: list[float] = []
        for _ in range(5):
            found = await timed(find(), took)
        emit(f"store.{figure}_of_100k_x_1k", took, found=len(found))


FIGURES: dict[str, Callable[[PostgresStore, str], Awaitable[None]]] = {
    "one_run": one_run,
    "known": known,
    "crowd": crowd,
    "queue": queue,
}


async def measure(name: str, url: str) -> None:
    await migrate(url)
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    await store.open()
    try:
        await FIGURES[name](store, url)
    finally:
        await store.aclose()


async def figures(*names: str) -> None:
    """Measures these, or all; each on a database of its own."""
    with embedded_postgres() as server:
        for name in names or FIGURES:
            await measure(name, server.url(f"bench_{name}"))


if __name__ == "__main__":
    asyncio.run(figures(*sys.argv[1:]))
