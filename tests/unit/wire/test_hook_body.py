"""What a hook receives, byte for byte."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

from knit_workflows.domain.hooks import Transition
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.images import parse_image
from knit_workflows.domain.plans.model import Annotation, PlanSummary
from knit_workflows.domain.runs.run import (
    Assignment,
    Exit,
    LogAssignment,
    RunDetail,
    RunStatus,
    RunSummary,
    Used,
    Waiting,
)
from knit_workflows.domain.tags import Tag
from knit_workflows.wire.hooks.payload import hook_body

RUN, PLAN = RunId("5a5a5a5a-0000-4000-8000-000000000001"), PlanId("plan-1")
TYPE = Tag("type", "dataset")


def text_of(run: RunDetail, source: RunStatus, target: RunStatus, attempt: int = 1) -> str:
    body = hook_body(run, Transition(RUN, run.generation, source, target), attempt)
    return json.dumps(body, separators=(",", ":"))


def test_a_run_of_an_image_with_everything() -> None:
    run = RunDetail(
        RunSummary(
            RUN,
            RunStatus.FAILED,
            datetime(2024, 5, 17, 4, 19, 33, 325_999, UTC),
            Exit(1, "(container main) Error"),
            PlanSummary(
                PLAN,
                parse_image("repo.example/train:v2", "image"),
                None,
                ("python", "main.py"),
                ("--epochs", "3"),
                (Annotation("owner", "alice"), Annotation("team", "a=b")),
            ),
        ),
        generation=3,
        inputs=(Assignment("/in/data", (Tag("project", "x"), TYPE), KnitId("11aa")),),
        outputs=(Assignment("/out/model", (), None), Assignment("/out/x", (), KnitId("22bb"))),
        log=LogAssignment((Tag("type", "log"),), KnitId("33cc")),
        # What knit shows beyond the contract is not told to hooks.
        priority=7,
        used=Used({"cpu": "1"}, "account", "sha256:00"),
        waiting=Waiting(1, "its turn"),
        notes=("a socket cannot be kept",),
    )
    assert text_of(run, RunStatus.ABORTING, RunStatus.FAILED, attempt=2) == (
        '{"runId":"5a5a5a5a-0000-4000-8000-000000000001","status":"failed",'
        '"updatedAt":"2024-05-17T04:19:33.325+00:00",'
        '"exit":{"code":1,"message":"(container main) Error"},'
        '"plan":{"planId":"plan-1","image":"repo.example/train:v2",'
        '"entrypoint":["python","main.py"],"args":["--epochs","3"],'
        '"annotations":["owner=alice","team=a=b"]},'
        '"inputs":[{"path":"/in/data","tags":["project:x","type:dataset"],"knitId":"11aa"}],'
        '"outputs":[{"path":"/out/model","tags":[],"knitId":""},'
        '{"path":"/out/x","tags":[],"knitId":"22bb"}],'
        '"log":{"tags":["type:log"],"knitId":"33cc"},'
        '"transition":{"from":"aborting","to":"failed","generation":3,"attempt":2}}'
    )


def test_a_run_of_an_image_with_nothing_more_than_it_must_have() -> None:
    run = RunDetail(
        RunSummary(
            RUN,
            RunStatus.WAITING,
            datetime(2024, 5, 17, 13, 19, 33, tzinfo=timezone(timedelta(hours=9))),
            None,
            PlanSummary(PLAN, parse_image("train:v2", "image"), None),
        ),
        generation=1,
        inputs=(Assignment("/in", (TYPE,), KnitId("11aa")),),
        outputs=(),
        log=None,
    )
    assert text_of(run, RunStatus.WAITING, RunStatus.READY) == (
        '{"runId":"5a5a5a5a-0000-4000-8000-000000000001","status":"waiting",'
        '"updatedAt":"2024-05-17T04:19:33+00:00",'
        '"plan":{"planId":"plan-1","image":"train:v2"},'
        '"inputs":[{"path":"/in","tags":["type:dataset"],"knitId":"11aa"}],"outputs":[],"log":null,'
        '"transition":{"from":"waiting","to":"ready","generation":1,"attempt":1}}'
    )


def test_a_run_of_a_built_in_plan_has_a_name_and_no_image() -> None:
    run = RunDetail(
        RunSummary(
            RUN,
            RunStatus.DONE,
            datetime(2024, 5, 17, 4, 19, 33, 70_000, UTC),
            Exit(0, ""),
            PlanSummary(PLAN, None, "knit#uploaded"),
        ),
        generation=1,
        inputs=(),
        outputs=(Assignment("/upload", (), KnitId("11aa")),),
        log=None,
    )
    assert text_of(run, RunStatus.COMPLETING, RunStatus.DONE) == (
        '{"runId":"5a5a5a5a-0000-4000-8000-000000000001","status":"done",'
        '"updatedAt":"2024-05-17T04:19:33.07+00:00","exit":{"code":0,"message":""},'
        '"plan":{"planId":"plan-1","name":"knit#uploaded"},"inputs":[],'
        '"outputs":[{"path":"/upload","tags":[],"knitId":"11aa"}],"log":null,'
        '"transition":{"from":"completing","to":"done","generation":1,"attempt":1}}'
    )
