"""The running API against its own document: whatever is sent, the answer is one it declares.

`KNIT_FUZZ_CASES` says how many requests; each round asks every operation for valid and for invalid
things, then follows the document's links from one operation to the next.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import BaseSchema

from knit_workflows.domain.accounts.tokens import digest_of
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import knit_environment
from tests.api.access import BEARER, TOKEN
from tests.api.archives import HELLO, HOSTILE, tar_of
from tests.api.test_processes import api
from tests.api.test_real_parts import environment_of

CASES = int(os.environ.get("KNIT_FUZZ_CASES", "2000"))
PER_ROUND = 15
"""Requests of each kind for each operation in a round."""
WALKS, STEPS = 20, 15

SETTINGS = settings(
    max_examples=PER_ROUND,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

_TAR = tar_of(HELLO)
ARCHIVES = {
    "application/x-tar": [_TAR, *(body for kind, body in HOSTILE.values() if "x-tar" in kind)],
    "application/tar+gzip": [
        gzip.compress(_TAR), *(body for kind, body in HOSTILE.values() if "gzip" in kind),
    ],
}  # fmt: skip
for _media_type, _bodies in ARCHIVES.items():
    schemathesis.openapi.media_type(
        _media_type, st.sampled_from(_bodies) | st.binary(max_size=2000)
    )


@schemathesis.deserializer("application/json")
def json_or_token(context: object, response: Response) -> object:
    """Schemathesis takes a signed token, `application/jwt`, for a kind of JSON."""
    is_token = response.headers["content-type"] == ["application/jwt"]
    return response.text if is_token else response.json()


class Client:
    """Asks, checks every answer, and counts."""

    def __init__(self, base: str) -> None:
        self.schema: BaseSchema = schemathesis.openapi.from_url(
            f"{base}/api/openapi.json", headers=BEARER
        )
        # A value may have the right form and still be refused: `image: ""`, a cursor of nothing.
        checks = self.schema.config.checks
        checks.positive_data_acceptance.expected_statuses += ["400"]
        checks.not_a_server_error.enabled = False  # ours knows where 503 is the contract's
        # A deleted Run is still shown, and takes its Data along: both are the contract's.
        checks.use_after_free.enabled = False
        checks.ensure_resource_availability.enabled = False

        @self.schema.hook
        def map_case(context: HookContext, case: Case) -> Case:
            return self._with_what_is_there(case)

        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update(BEARER)
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[FailureGroup] = []
        self.known: dict[str, str] = {}
        self._numbers = itertools.count()

    def get_ready(self, base: str) -> None:
        """Makes one Data, one Plan, one Run and one token, whose ids are then used."""
        headers = {"Content-Type": "application/x-tar"}
        target = f"{base}/api/data?tag=type:fuzz"
        data = self.session.post(target, data=_TAR, headers=headers, timeout=30).json()
        document = a_plan(f"ready{next(self._numbers)}")
        plan = self.session.post(f"{base}/api/plans", json=document, timeout=30).json()
        asked = {"name": f"ready-{next(self._numbers)}", "role": "viewer"}
        token = self.session.post(f"{base}/api/tokens", json=asked, timeout=30).json()
        self.known = {
            "knit_id": data["knitId"],
            "plan_id": plan["planId"],
            "token_id": token["tokenId"],
        }
        target = f"{base}/api/runs?plan={plan['planId']}"
        while not (runs := self.session.get(target, timeout=30).json()):
            time.sleep(0.05)
        self.known["run_id"] = runs[0]["runId"]

    @property
    def transport(self) -> dict[str, Any]:
        return {"session": self.session, "timeout": 60, "headers": BEARER}

    def ask(self, case: Case) -> None:
        checks = [self.no_unexpected_failure]
        case.call_and_validate(**self.transport, additional_checks=checks)

    def no_unexpected_failure(self, _: CheckContext, response: Response, case: Case) -> None:
        self.answers[case.operation.label, response.status_code] += 1
        if response.status_code < 500:
            return
        # The contract's own: a log or a volume that is not there yet.
        early = case.operation.definition.raw["operationId"] in ("run_log", "download_data")
        assert early, response.text
        assert response.status_code == 503, response.text
        assert response.headers["retry-after"], response.text

    def _with_what_is_there(self, case: Case) -> Case:
        """Half of the valid requests are about things that exist, and Plans that are some."""
        coin = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()) % 2
        if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE or coin:
            return case
        operation_id = case.operation.definition.raw["operationId"]
        if operation_id == "register_plan":
            case.body = a_plan(str(next(self._numbers) % 50))
        if operation_id != "delete_run":  # or the others would find nothing: walks delete
            for name in case.path_parameters or {}:
                case.path_parameters[name] = self.known.get(name, case.path_parameters[name])
        return case


def a_plan(version: str) -> dict[str, Any]:
    return {
        "image": f"memory/fuzz:v{version}",
        "inputs": [{"path": "/in", "tags": ["type:fuzz"]}],
        "outputs": [{"path": "/out", "tags": ["type:fuzzed"]}],
        "log": {"tags": ["type:log"]},
    }


def ask_everything(client: Client, number: int) -> None:
    """Asks every operation for valid and invalid things; those without parameters once."""
    for found in client.schema.get_all_operations():
        operation = found.ok()
        raw = operation.definition.raw
        modes = list(GenerationMode) if "parameters" in raw else [GenerationMode.POSITIVE]
        for mode in modes:
            asking = given(case=operation.as_strategy(generation_mode=mode))(client.ask)
            SETTINGS(seed(number)(asking))()


def follow_links(client: Client, number: int) -> None:
    """Walks from operation to operation, each taking ids from the answers before."""

    class Walk(client.schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return client.transport

        def validate_response(self, response: Response, case: Case, **options: Any) -> None:
            options["additional_checks"] = [client.no_unexpected_failure]
            try:
                super().validate_response(response, case, **options)
            except FailureGroup as failure:
                client.failures.append(failure)
                raise

    # The server remembers, so the same steps may find another state when Hypothesis repeats them.
    with suppress(FlakyStrategyDefinition):
        seed(number)(Walk).run(
            settings=settings(SETTINGS, max_examples=WALKS, stateful_step_count=STEPS)
        )
    for failure in client.failures:
        raise failure


def fuzz(base: str) -> Client:
    client = Client(base)
    for number in itertools.count():  # each round asks for other things, every time for the same
        if client.answers.total() >= CASES:
            return client
        client.get_ready(base)
        ask_everything(client, number)
        follow_links(client, number)
    raise AssertionError("there is always another round")


@pytest.mark.slow
@pytest.mark.timeout(max(1800, CASES))
async def test_no_request_gets_an_answer_that_is_not_declared(
    postgres: EmbeddedPostgres, tmp_path: Path
):
    """All of schemathesis' checks; 5xx only where the contract has them. Real parts throughout."""
    async with knit_environment(postgres=postgres) as knit:
        access = {
            "KNIT_ACCOUNTS__REQUIRED": "true",
            "KNIT_ACCOUNTS__BOOTSTRAP_TOKEN_SHA256": digest_of(TOKEN),
            "KNIT_ACCOUNTS__REQUESTS_PER_MINUTE": "10000000",
            "KNIT_ACCOUNTS__FAILURES_PER_MINUTE": "10000000",
        }
        with api(tmp_path, **environment_of(knit), **access) as running:
            await asyncio.to_thread(running.waits_for, "store", "engine")
            client = await asyncio.to_thread(fuzz, running.url)
    print(f"{client.answers.total()} requests:", dict(sorted(client.answers.items())))
    assert client.answers.total() >= CASES
    fruitful = {label for (label, status), _ in client.answers.items() if status < 300}
    everything = {found.ok().label for found in client.schema.get_all_operations()}
    # These need a Run in the right moment, or a hook; anything else must have worked at least once.
    changes = {f"PUT /api/runs/{{run_id}}/{verb}" for verb in ("abort", "tearoff", "retry")}
    hooks = {"POST /api/hooks/test", "POST /api/hooks/deliveries/{delivery_id}/skip"}
    # These need a token of this knit, or volumes of others.
    volumes = {"POST /api/data/import/end", "POST /api/adoptions"}
    lost = {"DELETE /api/runs/{run_id}"}
    assert everything - fruitful <= changes | hooks | volumes | lost
