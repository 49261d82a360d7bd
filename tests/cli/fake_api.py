"""A small knit API in memory, faithful on the wire, behind httpx's transport seam.

It knows no rules of the engine: Plans are registered as they come, Runs are what a test puts in.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from knit_cli.graphs.lineage import Edge, edges_of
from knit_workflows.domain.instants import format_instant, parse_instant
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.data import Data, DataDownstream, DataUpstream
from knit_workflows.wire.events import RunEvent
from knit_workflows.wire.plans import (
    LogPoint,
    Mountpoint,
    Plan,
    PlanDownstream,
    PlanInput,
    PlanLog,
    PlanOutput,
    PlanSpec,
    PlanSummary,
    PlanUpstream,
)
from knit_workflows.wire.runs import Assignment, Exit, LogAssignment, Run
from knit_workflows.wire.tags import Tag, TagChange
from knit_workflows.wire.times import parse_duration

API_ROOT = "http://knit.test/api"
START = datetime(2025, 2, 1, 10, 0, 0, 120_000, tzinfo=UTC)

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]


def plain_tar(files: dict[str, bytes]) -> bytes:
    """A plain tar of files by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def files_of(archive: bytes) -> dict[str, bytes | str]:
    """The files (bytes) and links (their targets) in a plain tar."""
    found: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            if member.issym():
                found[member.name] = member.linkname
            elif member.isfile():
                content = opened.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    return found


def error(status: int, reason: str, advice: str | None = None, see: str | None = None):
    """An answer in the declared shape."""
    message = {"reason": reason, "advice": advice, "see": see}
    body = {"message": {key: value for key, value in message.items() if value}}
    return httpx.Response(status, json=body)


@dataclass
class FakeApi:
    """What the API has, and what was asked of it.

    `interrupt[(method, path)]` answers instead of the API, once per item.
    """

    data: dict[str, Data] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    events: dict[str, list[RunEvent]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    interrupt: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Which Data each key of an upload has made."""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def transport(self) -> httpx.MockTransport:
        """The seam."""
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answers one request."""
        path = request.url.path.removeprefix("/api")
        self.requests.append(request)
        waiting = self.interrupt.get((request.method, path))
        if waiting:
            answer = waiting.pop(0)
            return answer(request) if callable(answer) else answer
        noun, *rest = path.strip("/").split("/")
        handlers = {
            "data": self._data,
            "plans": self._plans,
            "runs": self._runs,
            "completions": self._completions,
        }
        if noun not in handlers:
            return httpx.Response(404, json={"message": "Not Found"})
        return handlers[noun](request, rest)

    def asked(self) -> list[str]:
        """Method and path of every request so far."""
        return [f"{one.method} {one.url.path.removeprefix('/api')}" for one in self.requests]

    # ------------------------------------------------------------ what tests put in

    def new_id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers)}"

    def add_data(self, *tags: str, archive: bytes = b"", made_by: Run | None = None) -> Data:
        """An uploaded Data that is done, or the output of a Run."""
        run = made_by or self._upload_run()
        return self._store(self.new_id("data"), [Tag.parse(tag) for tag in tags], run, archive)

    def add_run(
        self,
        inputs: dict[str, Data],
        outputs: dict[str, str],
        *,
        status: str = "done",
        log: bool = False,
    ) -> tuple[Run, dict[str, Data]]:
        """A Run of a Plan of its own, and the Data it makes by path (the log is `/log`)."""
        run_id = self.new_id("run")
        ids = {path: self.new_id("data") for path in [*outputs, *(["/log"] if log else [])]}
        run = Run(
            run_id=run_id,
            status=status,
            updated_at=START,
            exit=Exit(code=0, message="") if status == "done" else None,
            plan=PlanSummary(plan_id=self.new_id("plan"), image="example/work:v1"),
            inputs=[
                Assignment(path=path, tags=[], knit_id=data.knit_id)
                for path, data in inputs.items()
            ],
            outputs=[
                Assignment(path=path, tags=[Tag.parse(tag)], knit_id=ids[path])
                for path, tag in outputs.items()
            ],
            log=LogAssignment(tags=[], knit_id=ids["/log"]) if log else None,
        )
        self.runs[run_id] = run
        for path, data in inputs.items():
            used = DataDownstream(mountpoint=Mountpoint(path=path, tags=[]), run=run)
            before = self.data[data.knit_id]
            self.data[data.knit_id] = before.model_copy(
                update={"downstreams": [*before.downstreams, used]}
            )
        made = {
            path: self._store(ids[path], [Tag.parse(outputs.get(path, "type:log"))], run, b"", path)
            for path in ids
        }
        return run, made

    def _upload_run(self) -> Run:
        run_id = self.new_id("run")
        run = Run(
            run_id=run_id,
            status="done",
            updated_at=START,
            plan=PlanSummary(plan_id="plan-uploaded", name="knit#uploaded"),
            inputs=[],
            outputs=[],
        )
        self.runs[run_id] = run
        return run

    def _store(
        self, knit_id: str, tags: list[Tag], run: Run, archive: bytes, path: str = "/upload"
    ) -> Data:
        system = [Tag(key="knit#id", value=knit_id)]
        finished = START + timedelta(seconds=len(self.data))
        system.append(
            Tag(key="knit#timestamp", value=format_instant(finished))
            if run.status in ("done", "failed")
            else Tag(key="knit#transient", value="processing")
        )
        if path == "/upload":
            assigned = Assignment(path=path, tags=[], knit_id=knit_id)
            self.runs[run.run_id] = run.model_copy(update={"outputs": [assigned]})
        is_log = path == "/log"
        data = Data(
            knit_id=knit_id,
            tags=_sorted([*tags, *system]),
            upstream=DataUpstream(
                mountpoint=None if is_log else Mountpoint(path=path, tags=[]),
                log=LogPoint(tags=[]) if is_log else None,
                run=run,
            ),
            downstreams=[],
            nomination=[],
        )
        self.data[knit_id] = data
        self.archives[knit_id] = archive
        return data

    # ------------------------------------------------------------ completions

    def _completions(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        prefix, limit = request.url.params["prefix"], int(request.url.params["limit"])
        tags = {tag for one in self.data.values() for tag in one.tags if "#" not in tag.key}
        known = {
            "data": self.data,
            "runs": self.runs,
            "plans": self.plans,
            "tags": sorted(map(str, tags)),
            "keys": sorted({tag.key for tag in tags}),
        }[request.url.params["of"]]
        found = [{"value": one, "words": ""} for one in known if one.startswith(prefix)]
        return httpx.Response(200, json=found[:limit])

    # ------------------------------------------------------------ Data

    def _data(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        match request.method, rest:
            case "GET", []:
                return _json(self._found_data(request.url.params))
            case "POST", []:
                return self._uploaded(request)
            case "GET", [knit_id] if knit_id in self.data:
                return self._archive(request, knit_id)
            case "GET", [knit_id, "lineage"] if knit_id in self.data:
                return self._traced(request.url.params, knit_id)
            case "PUT", [knit_id] if knit_id in self.data:
                return _json(self._tagged(knit_id, json.loads(request.content)))
        return error(404, "not found", "check the id")

    def _found_data(self, query: httpx.QueryParams) -> list[Data]:
        wanted = {Tag.parse(text) for text in query.get_list("tag")}
        found = [data for data in self.data.values() if wanted <= set(data.tags)]
        if "since" in query:
            since = parse_instant(query["since"])
            until = since + parse_duration(query.get("duration", "1000000h"))
            found = [data for data in found if since <= _time(data) < until]
        return found

    def _uploaded(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/x-tar"
        assert request.headers["Transfer-Encoding"] == "chunked"
        key = request.headers["Idempotency-Key"]
        if key in self.keys:
            return _json(self.data[self.keys[key]])
        made = self.add_data(*request.url.params.get_list("tag"), archive=request.content)
        self.keys[key] = made.knit_id
        return _json(made)

    def _traced(self, query: httpx.QueryParams, knit_id: str) -> httpx.Response:
        hops = {way: None if query[way] == "all" else int(query[way]) for way in query}
        assert hops and hops.keys() <= {"upstream", "downstream"}
        data, runs = {knit_id: self.data[knit_id]}, {}
        for way, far in hops.items():
            self._follow(knit_id, way == "upstream", far, data, runs)
        return _json({"data": list(data.values()), "runs": list(runs.values())})

    def _follow(
        self, start: str, up: bool, far: int | None, data: dict[str, Data], runs: dict[str, Run]
    ) -> None:
        """Adds the Runs so far in one direction, each with all its Data; level by level."""
        level, followed = [start], {start}
        while level and far != 0:
            ids = [
                one
                for knit_id in level
                for one in (
                    [self.data[knit_id].upstream.run.run_id]
                    if up
                    else [use.run.run_id for use in self.data[knit_id].downstreams]
                )
                if one in self.runs
            ]
            edges: list[Edge] = [edge for one in ids for edge in edges_of(self.runs[one])]
            runs.update({one: self.runs[one] for one in ids})
            data.update({e.knit_id: self.data[e.knit_id] for e in edges if e.knit_id in self.data})
            ahead = dict.fromkeys(e.knit_id for e in edges if e.into_run is up)
            level = [one for one in ahead if one in self.data and one not in followed]
            followed.update(level)
            far = None if far is None else far - 1

    def _archive(self, request: httpx.Request, knit_id: str) -> httpx.Response:
        first = request.headers["Accept"].partition(",")[0].partition(";")[0]
        content = self.archives[knit_id]
        if first == "application/tar+gzip":
            content = gzip.compress(content)
        return httpx.Response(200, headers={"Content-Type": first}, content=iter([content]))

    def _tagged(self, knit_id: str, body: dict[str, Any]) -> Data:
        change = TagChange.model_validate(body)
        data = self.data[knit_id]
        kept = [
            tag
            for tag in data.tags
            if tag not in change.remove and tag.key not in change.remove_key
        ]
        tags = _sorted({*kept, *change.add})
        self.data[knit_id] = data.model_copy(update={"tags": tags})
        return self.data[knit_id]

    # ------------------------------------------------------------ Plans

    def _plans(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        match request.method, rest:
            case "GET", []:
                return _json(list(self.plans.values()))
            case "POST", []:
                return self._registered(request)
            case "GET", [plan_id] if plan_id in self.plans:
                return _json(self.plans[plan_id])
            case ("PUT" | "DELETE") as method, [plan_id, "active"] if plan_id in self.plans:
                changed = self.plans[plan_id].model_copy(update={"active": method == "PUT"})
                self.plans[plan_id] = changed
                return _json(changed)
            case (("PUT" | "DELETE"), [plan_id, part]) if plan_id in self.plans:
                body = json.loads(request.content or "null")
                return _json(self._changed_plan(plan_id, part, body))
        return error(404, "not found", "check the id")

    def _changed_plan(self, plan_id: str, part: str, body: Any) -> Plan:
        plan = self.plans[plan_id]
        match part:
            case "resources":
                kept = {k: v for k, v in plan.resources.items() if k not in body["unset"]}
                update = {"resources": {"cpu": "1", "memory": "1Gi", **kept, **body["set"]}}
            case "annotations":
                keys = tuple(f"{key}=" for key in body["remove_key"])
                kept = {one for one in plan.annotations if not one.startswith(keys)}
                update = {"annotations": sorted((kept - set(body["remove"])) | set(body["add"]))}
            case "serviceaccount":
                update = {"service_account": body and body["service_account"]}
            case "priority":
                update = {"priority": body["priority"]}
        self.plans[plan_id] = plan.model_copy(update=update)
        return self.plans[plan_id]

    def link_plans(self, output: tuple[str, str | None], into: tuple[str, str]) -> None:
        """Lets an output (Plan, path; None: its log) feed an input (Plan, path)."""
        (producer, path), (consumer, hole) = output, into
        up, down = self.plans[producer], self.plans[consumer]
        to = Mountpoint(path=hole, tags=[])
        link = PlanDownstream(plan=PlanSummary(plan_id=consumer), mountpoint=to)
        end = next(one for one in up.outputs if one.path == path) if path else up.log
        end.downstreams.append(link)
        back = PlanUpstream(
            plan=PlanSummary(plan_id=producer),
            mountpoint=Mountpoint(path=path, tags=[]) if path else None,
            log=None if path else LogPoint(tags=[]),
        )
        next(one for one in down.inputs if one.path == hole).upstreams.append(back)

    def _registered(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Type"] == "application/json"
        spec = PlanSpec.model_validate_json(request.content)
        plan = Plan(
            plan_id=self.new_id("plan"),
            image=spec.image if ":" in spec.image else f"{spec.image}:latest",
            entrypoint=spec.entrypoint,
            args=spec.args,
            annotations=sorted(spec.annotations),
            inputs=[PlanInput(path=i.path, tags=i.tags, upstreams=[]) for i in spec.inputs],
            outputs=[PlanOutput(path=o.path, tags=o.tags, downstreams=[]) for o in spec.outputs],
            log=PlanLog(tags=spec.log.tags, downstreams=[]) if spec.log else None,
            active=spec.active,
            resources={"cpu": "1", "memory": "1Gi", **spec.resources},
            service_account=spec.service_account,
            priority=spec.priority,
        )
        for known in self.plans.values():
            if (known.image, known.inputs, known.outputs) == (
                plan.image,
                plan.inputs,
                plan.outputs,
            ):
                return error(
                    409, "an equivalent Plan is registered", "use that one", see=known.plan_id
                )
        self.plans[plan.plan_id] = plan
        return _json(plan)

    # ------------------------------------------------------------ Runs

    def _runs(self, request: httpx.Request, rest: list[str]) -> httpx.Response:
        match request.method, rest:
            case "GET", []:
                wanted = request.url.params.get("status", "").split(",")
                found = [
                    one for one in self.runs.values() if wanted == [""] or one.status in wanted
                ]
                return _json(found)
            case "GET", [run_id] if run_id in self.runs:
                return _json(self.runs[run_id])
            case "GET", [run_id, "log"] if run_id in self.logs:
                return self._log(request, run_id)
            case "PUT", [run_id, ("abort" | "tearoff") as how] if run_id in self.runs:
                status = "aborting" if how == "abort" else "completing"
                self.runs[run_id] = self.runs[run_id].model_copy(update={"status": status})
                return _json(self.runs[run_id])
            case "PUT", [run_id, "retry"] if run_id in self.runs:
                self.runs[run_id] = self.runs[run_id].model_copy(update={"status": "waiting"})
                return httpx.Response(200)
            case "DELETE", [run_id] if run_id in self.runs:
                del self.runs[run_id]
                return httpx.Response(204)
            case "GET", [run_id, "events"] if run_id in self.events:
                return _json(self.events[run_id])
        return error(404, "not found", "check the id")

    def _log(self, request: httpx.Request, run_id: str) -> httpx.Response:
        offset = int(request.url.params.get("offset", "0"))
        if offset > len(self.logs[run_id]):
            return error(409, "there are not so many bytes")
        headers = {
            "Content-Type": "application/octet-stream",
            "Log-Offset": str(offset),
            "Log-Knit-Id": self.runs[run_id].log.knit_id,
        }
        chunks = self.logs[run_id][offset:].splitlines(keepends=True)
        return httpx.Response(200, headers=headers, content=iter(chunks))


def _json(value: Any) -> httpx.Response:
    return httpx.Response(200, text=json.dumps(to_wire(value)) + "\n")


def _sorted(tags: Any) -> list[Tag]:
    return sorted(tags, key=lambda tag: (tag.key, tag.value))


def _time(data: Data) -> datetime:
    (stamp,) = (tag.value for tag in data.tags if tag.key == "knit#timestamp")
    return parse_instant(stamp)
