"""What the OpenAPI document shows: one example per operation, all of the same small story.

A Plan `train` turns a Data of the type `dataset` into a model and a log. Examples are plain JSON,
as a client sees it; a test holds them against the schemas of the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TAGS: Final[Mapping[str, str]] = {
    "data": "immutable things with tags, and what came of them",
    "plans": "kinds of computation, described by the tags they take and give",
    "runs": "computations: one per Plan and combination of Data",
    "hooks": "URLs that are told of the changes of Runs, and may hold them up",
    "completions": "what a shell offers when a key is pressed",
    "accounts": "who calls, tokens, and the record of what everybody did",
    "health": "whether knit is up, and how it is",
}
IDS: Final[Mapping[str, str]] = {
    "knit_id": "8d0b9f10-6a3c-4f9e-9d8e-0a1f5a4b2c01",
    "plan_id": "3f6c1a52-2d47-4c0b-8f5d-7b1e9c3d4a02",
    "run_id": "c5e2d7a4-91b8-4e36-a2f0-5d8c6b7e1f03",
    "delivery_id": "2d9b7c04-6f1e-5a83-9c50-b8e4d1f7a611",
    "token_id": "9e41c7d2-08b6-4f35-a1e9-3c7d50b2f612",
}

_DATASET: Final = IDS["knit_id"]
_MODEL: Final = "1b7e4c93-5f20-4d8a-b6c1-e9a2d3f40804"
_LOG: Final = "64a9f8d1-0c3e-47b5-9e72-1f5b8d6c2a05"
_UPLOAD: Final = "e0d47b68-3a91-4c5f-8b2e-96f1a7c35d06"
_UPLOADED_AT: Final = "2026-01-02T03:04:05.678+00:00"
_ENDED_AT: Final = "2026-01-02T03:14:15.9+00:00"

_IN: Final[dict[str, Any]] = {"path": "/in/dataset", "tags": ["type:dataset"]}
_OUT: Final[dict[str, Any]] = {"path": "/out/model", "tags": ["type:model"]}
_LOGGED: Final[dict[str, Any]] = {"tags": ["type:log"]}
_SUMMARY: Final = {
    "planId": IDS["plan_id"],
    "image": "localhost:5000/train:v2",
    "args": ["--epochs", "3"],
    "annotations": ["owner=alice"],
}
_SPEC: Final = {
    "image": "localhost:5000/train:v2",
    "args": ["--epochs", "3"],
    "annotations": ["owner=alice"],
    "inputs": [_IN],
    "outputs": [_OUT],
    "log": _LOGGED,
    "resources": {"cpu": "1", "memory": "1Gi"},
}
_PLAN: Final = {
    **_SUMMARY,
    "inputs": [{**_IN, "upstreams": []}],
    "outputs": [{**_OUT, "downstreams": []}],
    "log": {**_LOGGED, "downstreams": []},
    "active": True,
    "resources": {"cpu": "1", "memory": "1Gi"},
}
_RUN_SUMMARY: Final[dict[str, Any]] = {
    "runId": IDS["run_id"],
    "status": "done",
    "updatedAt": _ENDED_AT,
    "exit": {"code": 0, "message": "(container main) Completed"},
    "plan": _SUMMARY,
}
_RUN: Final = {
    **_RUN_SUMMARY,
    "inputs": [{**_IN, "knitId": _DATASET}],
    "outputs": [{**_OUT, "knitId": _MODEL}],
    "log": {**_LOGGED, "knitId": _LOG},
}
_PENDING: Final = {
    **{key: value for key, value in _RUN.items() if key != "exit"},
    "runId": "7a2e9d41-c0b5-4f86-9d13-28e6b4f5a708",
    "status": "starting",
    "outputs": [{**_OUT, "knitId": "5c8f1e20-7b3d-4a69-8e04-d1f2a6b39c09"}],
    "log": {**_LOGGED, "knitId": "b3d60a97-2e5c-4178-a4f9-60c7e8d15b10"},
    "waiting": {
        "reason": "pinging container registry localhost:5000: connection refused",
        "kind": "transient",
        "code": "RegistryUnreachable",
        "since": _ENDED_AT,
        "until": "2026-01-02T03:24:15+00:00",
        "outlook": "tried again; the Run fails if it lasts",
    },
}
_HOOK: Final = "https://policy.example/signed-images"
_HOOKS_FILE: Final = {
    "worker": "17@knit-worker-hooks-0",
    "file": "/etc/knit/hooks.yaml",
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_HOOKS: Final = {
    "before": [_HOOK],
    "after": ["https://chat.example/knit"],
    "changed_at": "2026-01-02T03:01:07.5+00:00",
    "source": _HOOKS_FILE,
    "followers": [
        {
            **_HOOKS_FILE,
            "since": "2026-01-02T03:01:07.512+00:00",
            "seen_at": "2026-01-02T03:14:15.9+00:00",
        }
    ],
}
_DELIVERY: Final = {
    "id": IDS["delivery_id"],
    "runId": _PENDING["runId"],
    "generation": 1,
    "from": "ready",
    "to": "starting",
    "phase": "before",
    "url": _HOOK,
    "state": "failed",
    "attempts": 3,
    "created_at": _ENDED_AT,
    "called_at": "2026-01-02T03:14:19.02+00:00",
    "next_at": "2026-01-02T03:14:22.31+00:00",
    "status_code": 503,
    "duration_ms": 42,
    "answer": "answered 503 Service Unavailable: the list is being rebuilt",
}
_SKIPPED: Final = {
    **{key: value for key, value in _DELIVERY.items() if key != "next_at"},
    "state": "skipped",
    "skipped_by": "ada",
    "skip_reason": "the list is down until Monday",
}
_STOPPED: Final = {
    **_RUN,
    "status": "aborting",
    "exit": {"code": 253, "message": "aborted by user"},
}
_TORN_OFF: Final = {
    **_RUN,
    "status": "completing",
    "exit": {"code": 0, "message": "stopped by user"},
}
_TAGS: Final = [f"knit#id:{_DATASET}", f"knit#timestamp:{_UPLOADED_AT}", "type:dataset"]
_DATA: Final = {
    "knitId": _DATASET,
    "tags": _TAGS,
    "upstream": {
        "mountpoint": {"path": "/upload", "tags": []},
        "run": {
            "runId": _UPLOAD,
            "status": "done",
            "updatedAt": _UPLOADED_AT,
            "plan": {
                "planId": "92c7e5b0-48d3-4a16-b9f4-d01e8a6f7b07",
                "name": "knit#uploaded",
            },
        },
    },
    "downstreams": [{"mountpoint": _IN, "run": _RUN_SUMMARY}],
    "nomination": [{**_IN, "plan": _SUMMARY}],
}
_ADOPTED: Final = {
    "knitId": _DATASET,
    "adopted_volume": "/srv/images",
    "tags": _TAGS,
    "upstream": {
        "mountpoint": {"path": "/imported", "tags": []},
        "run": {
            "runId": _UPLOAD,
            "status": "done",
            "updatedAt": _UPLOADED_AT,
            "plan": {
                "planId": "5a1d9e3c-7b64-4f08-8c2d-e3f6a9b1d208",
                "name": "knit#imported",
            },
        },
    },
    "downstreams": [],
    "nomination": [],
}
_TIMING: Final = {
    "generation": 1,
    "status": "done",
    "milliseconds": 1412,
    "phases": [
        {"phase": "queue", "milliseconds": 12},
        {"phase": "engine", "milliseconds": 148},
        {"phase": "start", "milliseconds": 52},
        {"phase": "container", "milliseconds": 1180},
        {"phase": "finalize", "milliseconds": 20},
    ],
}
_EVENTS: Final = [
    {"at": _UPLOADED_AT, "generation": 1, "to": "waiting", "cause": "projected", "actor": "knit"},
    {
        "at": _ENDED_AT,
        "generation": 1,
        "from": "completing",
        "to": "done",
        "cause": "finalized",
        "actor": "knit",
        "exit": {"code": 0, "message": "(container main) Completed"},
    },
]


_TOKEN: Final = {
    "tokenId": IDS["token_id"],
    "name": "ci",
    "role": "editor",
    "projects": [],
    "prefix": "knit_Zr3mQ0x",
    "createdAt": _UPLOADED_AT,
    "createdBy": "ada",
    "expiresAt": "2026-02-01T03:04:05.678+00:00",
}
_RECORDED: Final = {
    "id": 4711,
    "at": _ENDED_AT,
    "subject": "token:ci",
    "actor": "ci",
    "method": "PUT",
    "route": "/api/runs/{run_id}/abort",
    "targets": {"run_id": IDS["run_id"]},
    "address": "192.0.2.17",
    "status": 200,
    "endedAt": "2026-01-02T03:14:15.912+00:00",
}


_STATUS: Final = {
    "at": _ENDED_AT,
    "problems": ["no worker has the role watch: start one (python -m knit_workflows --roles …)"],
    "runs": [{"status": "waiting", "runs": 12, "since": _UPLOADED_AT, "runId": IDS["run_id"]}],
    "held_up": [
        {
            "kind": "image",
            "code": "ErrImagePull",
            "runs": 2,
            "since": _UPLOADED_AT,
            "runId": IDS["run_id"],
            "message": "localhost:5000/train:v2: not found",
        }
    ],
    "ended": {
        "hours": 24,
        "done": 118,
        "failed": 1,
        "failures": [
            {
                "runId": IDS["run_id"],
                "at": _ENDED_AT,
                "plan": "localhost:5000/train:v2",
                "exit": {"code": 1, "message": "Error"},
            }
        ],
    },
    "backlog": {"events": 0, "oldest_event_seconds": 0.0, "transfers": 1, "discarded": 3},
    "limits": {"total": 100},
    "workers": [{"role": "engine", "queue": "knit", "workers": 2, "waiting": 0}],
    "versions": {"knit": "0.1.0", "database": "0012", "temporal": "1.29.1"},
    "disk": {"database": 48234496},
}


@dataclass(frozen=True, slots=True)
class Example:
    """A request body of an operation, and the body of its response with 200; None: no JSON."""

    response: Any = None
    request: Any = None


NOTHING: Final = Example()

OPERATIONS: Final[Mapping[str, Example]] = {
    "healthz": Example({"parts": {}}),
    "readyz": Example({"parts": {"store": "ok", "engine": "ok"}}),
    "show_version": Example({"version": "0.1.0", "upload_keys": True, "sparse_files": True}),
    "protected_resource": Example(
        {
            "resource": "https://knit.example",
            "authorization_servers": ["https://login.example"],
            "bearer_methods_supported": ["header"],
            "knit_client_id": "knit",
        }
    ),
    "whoami": Example(
        {
            "subject": "token:ci",
            "name": "ci",
            "role": "editor",
            "projects": [],
            "expires": "2026-02-01T03:04:05.678+00:00",
        }
    ),
    "list_tokens": Example([_TOKEN]),
    "create_token": Example(
        {**_TOKEN, "token": f"knit_{'Zr3mQ0x' * 7}"},
        {"name": "ci", "role": "editor", "expiresIn": "720h"},
    ),
    "revoke_token": Example({**_TOKEN, "revokedAt": _ENDED_AT, "revokedBy": "ada"}),
    "find_audit": Example([_RECORDED]),
    "find_data": Example([_DATA]),
    "upload_data": Example({**_DATA, "downstreams": [], "nomination": []}),
    "show_data": Example(_DATA),
    "change_tags": Example(_DATA, {"add": ["type:dataset"], "remove_key": ["draft"]}),
    "purge_data": Example(
        {
            "outcome": "purged",
            "volume": f"data-knitid-{_DATASET}",
            "data": {
                **_DATA,
                "tags": [*_TAGS[:2], "knit#transient:purged", _TAGS[2]],
                "nomination": [],
            },
        }
    ),
    "end_import": Example({key: _ADOPTED[key] for key in _ADOPTED if key != "adopted_volume"}),
    "adopt_volumes": Example(
        [{"volume": "/srv/images", "outcome": "new", "data": _ADOPTED}],
        {"volumes": [{"volume": "/srv/images", "tags": ["type:dataset"]}]},
    ),
    "show_lineage": Example({"data": [_DATA], "runs": [_RUN]}),
    "complete": Example([{"value": "type:dataset", "words": ""}]),
    "find_plans": Example([_PLAN]),
    "register_plan": Example(_PLAN, _SPEC),
    "try_plan": Example(
        {
            "refusals": [],
            "warnings": [],
            "unchecked": ["whether the image can be pulled shows when a Run starts"],
        },
        _SPEC,
    ),
    "show_plan": Example(_PLAN),
    "activate_plan": Example(_PLAN),
    "deactivate_plan": Example({**_PLAN, "active": False}),
    "change_resources": Example(
        {**_PLAN, "resources": {"cpu": "2", "memory": "1Gi"}},
        {"set": {"cpu": "2"}, "unset": ["memory"]},
    ),
    "change_annotations": Example(_PLAN, {"add": ["owner=alice"], "remove_key": ["reviewer"]}),
    "set_service_account": Example(
        {**_PLAN, "service_account": "trainer"}, {"service_account": "trainer"}
    ),
    "unset_service_account": Example(_PLAN),
    "set_priority": Example({**_PLAN, "priority": 10}, {"priority": 10}),
    "set_options": Example({**_PLAN, "pod": {"shm_size": "1Gi"}}, {"pod": {"shm_size": "1Gi"}}),
    "find_runs": Example([_RUN, _PENDING]),
    "show_run": Example(_RUN),
    "run_events": Example(_EVENTS),
    "run_timing": Example(_TIMING),
    "abort_run": Example(_STOPPED),
    "tear_off_run": Example(_TORN_OFF),
    "show_status": Example(_STATUS),
    "show_hooks": Example(_HOOKS),
    "find_deliveries": Example([_DELIVERY]),
    "skip_delivery": Example(_SKIPPED, {"reason": "the list is down until Monday", "by": "ada"}),
    "test_hook": Example(
        {
            "url": _HOOK,
            "succeeded": True,
            "duration_ms": 31,
            "status_code": 200,
            "answer": '{"knitfabExtension": {"env": {"POLICY": "strict"}}}',
            "environment": ["POLICY"],
        },
        {"url": _HOOK},
    ),
}
"""By the name of the route's function."""


def _error(reason: str, advice: str, see: str | None = None) -> dict[str, Any]:
    detail = {"reason": reason, "advice": advice}
    return {"message": detail if see is None else {**detail, "see": see}}


ERRORS: Final[Mapping[int, dict[str, Any]]] = {
    400: _error("the tag 'x' has no ':'", "write it as key:value"),
    401: _error(
        "the token is not valid: its signature is wrong", "send the token as `begin` gave it"
    ),
    403: _error(
        "this needs the role editor; ada has the role viewer", "ask an admin for the role editor"
    ),
    404: _error("there is no such thing", "check the id", IDS["knit_id"]),
    408: _error("the body did not come within 60 s", "send it again, at once"),
    409: _error(
        "the present state does not allow it",
        "look at its present state, then decide anew",
        IDS["run_id"],
    ),
    413: _error("the body is too large", "a JSON body has at most 4 MiB"),
    415: _error(
        "the media type 'text/plain' is not one of an archive",
        "send gzip(tar) as application/tar+gzip or plain tar as application/x-tar",
    ),
    426: _error(
        "a log that is followed has no length yet, and over HTTP/1.0 nobody could tell whether it "
        "is complete",
        "speak HTTP/1.1; where a proxy is on the way, let it (nginx: proxy_http_version 1.1;)",
    ),
    429: _error("ada sends more than 1,200 requests per minute", "wait 1 s, then send it again"),
    500: _error("the Data cannot be packed", "ask the operator of this knit; its logs say more"),
    503: _error("the database does not answer", "try again in some seconds"),
    507: _error(
        "the disk of /srv/knit has 118 MiB left, less than the 256 MiB that new work needs",
        "make room there: delete Runs that you do not need with `knit run rm`, or other files",
    ),
}
