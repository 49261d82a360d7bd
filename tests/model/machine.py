"""Random sequences of actions, done to the model and to the real system, and compared after each.

The rules of `UserRules` are what users do; `FastMachine` adds every step of the engine as a rule of
its own, `WholeMachine` lets the real engine come to rest after each action.

Whatever an action is done to is drawn as a number and looked up among all there is, the last thing
that is gone and one that never was: refusals are part of the sequences.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, ClassVar, Generic, TypeVar

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knit_workflows import names
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.imports import import_of
from tests.model.model import (
    IMPORTED,
    LOG,
    MOVES,
    SYSTEM,
    UPLOADED,
    Model,
    Mounts,
    Refused,
    Run,
    Spec,
)
from tests.model.views import (
    Ids,
    Picture,
    difference,
    picture_of_answers,
    picture_of_model,
)
from tests.model.worlds import FastWorld, WholeWorld

T = TypeVar("T")
W = TypeVar("W", FastWorld, WholeWorld)

NUMBERS = st.integers(0, 23)
ABSENT_FROM = 22
TAGS = ["t:a", "t:b", "t:c", "v:1", "v:2"]
TAG_SETS = st.frozensets(st.sampled_from(TAGS), max_size=2)
REQUIREMENTS = st.frozensets(st.sampled_from(TAGS), min_size=1, max_size=2)
PINS = st.sampled_from([None, None, None, None, "id", "timestamp"])
DEFECTS = st.sampled_from(
    [None] * 12 + ["no inputs", "no tags", "transient", "system output", "nested"]
)
A, B, C = (frozenset({f"t:{letter}"}) for letter in "abc")
CHAIN = [
    Spec("demo:1", (("/in/1", A),), ((LOG, frozenset()), ("/out/1", B))),
    Spec("demo:1", (("/in/1", B),), (("/out/1", C),)),
]
PAIR = [Spec("demo:2", (("/in/1", A), ("/in/10", A)), (("/out/1", B),))]
SETTINGS: list[list[Spec]] = [CHAIN[:1], CHAIN, PAIR, CHAIN + PAIR, []]
ORDERS = {
    "retry": ["done", "failed"],
    "delete": ["done", "failed", "waiting", "deactivated"],
    "abort": ["deactivated", "waiting", "ready", "starting", "running"],
    "tearoff": ["ready", "starting", "running"],
}
FITTING = st.sampled_from([True, True, True, False])
ENDS = st.lists(st.sampled_from([True, True, False]), min_size=4, max_size=4)
RELAUNCHES = 2
"""How often a disrupted Run is launched again."""
SLOW_PATIENCE = 100.0
"""Seconds in which the real engine comes to rest."""
LATER = "final"
"""Stands for an instant that the model does not know."""


class UserRules(RuleBasedStateMachine, Generic[W]):
    """What users do; works on any world."""

    most_plans, most_uploads = 5, 5  # Runs grow with the square of the Data
    imports_stay_open = True
    steps = 0
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self, loop: asyncio.Runner, opening: AbstractAsyncContextManager[W]) -> None:
        super().__init__()
        self.story: list[str] = []
        self._loop = loop
        self._stack = AsyncExitStack()
        self.world: W = self.wait(self._stack.enter_async_context(opening))
        self.model = Model(self.clock)
        self.ids = Ids()
        self.gone: list[int] = []
        self.tokens: dict[int, str] = {}

    def teardown(self) -> None:
        self.wait(self._stack.aclose())

    def wait(self, awaitable: Awaitable[T]) -> T:
        async def waiting() -> T:
            return await awaitable

        try:
            return self._loop.run(waiting())
        except Exception as error:
            error.add_note(self.report(""))
            raise

    def clock(self, run: Run) -> str:
        at: str = self.wait(self.world.api.get(f"/runs/{self.ids.real(run.id)}"))["updatedAt"]
        return at

    # --- comparing

    @invariant()
    def same(self) -> None:
        """Everything visible is as the model has it, and what is gone is not found."""
        differs = difference(picture_of_model(self.model), self.wait(self.look()))
        assert not differs, self.report(differs)
        self._bury()
        UserRules.steps += bool(self.story)

    async def look(self) -> Picture:
        api = self.world.api
        plans: list[Any] = await api.get("/plans")
        listed: list[Any] = await api.get("/runs")
        data: list[Any] = await api.get("/data")
        deleted = [run.id for run in self.model.runs.values() if run.status == "invalidated"]
        tombstones: list[Any] = [await api.get(f"/runs/{self.ids.real(one)}") for one in deleted]
        self.ids.meet(self.model, [*listed, *tombstones])
        return picture_of_answers(self.ids, plans, listed, tombstones, data)

    def _bury(self) -> None:
        there = self.model.plans.keys() | self.model.runs.keys() | self.model.data.keys()
        for one in sorted(set(self.ids.bound()) - there - set(self.gone)):
            for path in ("/runs/{}", "/data/{}/metadata"):
                answer = self.wait(self.world.api.ask("GET", path.format(self.ids.real(one))))
                assert answer.status_code == 404, self.report(f"{one} is still there")
            self.gone.append(one)

    def report(self, differs: str) -> str:
        return "\n".join(["the model and the real system are compared after", *self.story, differs])

    # --- acting

    def act(self, what: str, real: Awaitable[Any], change: Callable[[], object]) -> None:
        """Does it to both; the answer's status must be the one the model gives."""
        answer = self.wait(real)
        status = getattr(answer, "status_code", answer)
        try:
            change()
            wanted = 200
        except Refused as refusal:
            wanted = refusal.status
        self.log(f"{what}: {status}")
        assert (200 if status in (None, 204) else status) == wanted, self.report(f"model: {wanted}")

    def log(self, what: str) -> None:
        self.tally[what.split(" ")[0] + " " + what.rpartition(": ")[2]] += 1
        self.story.append(what)

    def ask(self, method: str, path: str, body: object = None) -> Awaitable[httpx.Response]:
        return self.world.api.ask(method, path, body)

    def pick(self, number: int, there: Iterable[int]) -> int | None:
        """One of these, the last of the gone, or (None) one that never was."""
        present, absent = list(there), [None, *self.gone[-1:]]
        choice = present if present and number < ABSENT_FROM else absent
        return choice[number % len(choice)]

    def a_run(self, number: int) -> tuple[Any, str]:
        picked = self.pick(number, self.model.runs)
        return picked, self.ids.real(picked)

    def a_data(self, number: int) -> tuple[Any, str]:
        picked = self.pick(number, self.model.data)
        return picked, self.ids.real(picked)

    def uploads(self) -> list[Run]:
        """Those whose transfer is open."""
        runs = [run for run in self.model.runs.values() if run.source == UPLOADED]
        return [run for run in runs if MOVES[run.status]]

    # --- Plans

    @initialize(
        setting=st.sampled_from(SETTINGS),
        pushed=st.lists(TAG_SETS, min_size=1, max_size=2),
        rounds=st.sampled_from([1, 2, 2, 0]),
        ends=ENDS,
    )
    def begin_with(
        self,
        setting: list[Spec],
        pushed: list[frozenset[str]],
        rounds: int,
        ends: list[bool],
    ) -> None:
        """Some Plans and what came of them, which an example would seldom find by chance."""
        for spec in setting:
            self._register(spec)
        for tags in pushed if setting else []:
            self.push(tags | {"t:a"}, True)
        for _ in range(rounds if setting else 0):
            self.go_on(ends)

    def go_on(self, ends: list[bool]) -> None:
        """Lets the engine carry on for a while, if it does not do so by itself."""

    @precondition(lambda self: len(self.model.plans) < self.most_plans)
    @rule(
        image=st.sampled_from(["demo:1", "demo:2"]),
        requirements=st.lists(REQUIREMENTS, min_size=1, max_size=2),
        pin=PINS,
        number=NUMBERS,
        outputs=st.lists(TAG_SETS, max_size=2),
        log=st.none() | TAG_SETS,
        active=st.sampled_from([True, True, False]),
        defect=DEFECTS,
    )
    def register(
        self,
        image: str,
        requirements: list[frozenset[str]],
        pin: str | None,
        number: int,
        outputs: list[frozenset[str]],
        log: frozenset[str] | None,
        active: bool,
        defect: str | None,
    ) -> None:
        if pin:
            requirements = [
                (requirements[0] if number % 2 else frozenset()) | {self._pin(pin, number)},
                *requirements[1:],
            ]
        # /in/1 is no part of /in/10: paths are compared by component.
        inputs = dict(zip(("/in/1", "/in/10"), requirements, strict=False))
        made = dict(zip(("/out/1", "/out/2"), outputs, strict=False))
        if defect == "no inputs":
            inputs = {}
        elif defect == "no tags":
            inputs["/in/1"] = frozenset()
        elif defect == "transient":
            inputs["/in/1"] = frozenset({"t:a", "knit#transient:failed"})
        elif defect == "system output":
            made["/out/1"] = frozenset({"knit#id:1"})
        elif defect == "nested":
            made["/in/1/x"] = frozenset()
        if log is not None:
            made[LOG] = log
        spec = Spec(image, tuple(sorted(inputs.items())), tuple(sorted(made.items())), active)
        self._register(spec)

    def _pin(self, key: str, number: int) -> str:
        """A pin to a Data there is (if it has a timestamp), or to none."""
        picked = self.pick(number, self.model.data)
        if key == "id":
            return f"knit#id:{picked or 0}"
        at = self.model.data[picked].timestamp if picked in self.model.data else None
        if at == LATER:
            at = None
        return f"knit#timestamp:{at or '2024-01-01T00:00:00+00:00'}"

    def _register(self, spec: Spec) -> None:
        answer = self.wait(self.ask("POST", "/plans", self._written(spec)))

        def change() -> None:
            plan = self.model.register(spec)
            if answer.status_code == 200:
                self.ids.bind(plan.id, answer.json()["planId"])

        async def answered() -> Any:
            return answer

        written = f"{list(spec.inputs)} → {list(spec.outputs)}, active={spec.active}"
        self.act(f"register {spec.image} {written}", answered(), change)

    def _written(self, spec: Spec) -> dict[str, Any]:
        def mounts(them: Mounts) -> list[dict[str, Any]]:
            return [{"path": path, "tags": self._tags(tags)} for path, tags in them if path != LOG]

        log = dict(spec.outputs).get(LOG)
        return {
            "image": spec.image,
            "inputs": mounts(spec.inputs),
            "outputs": mounts(spec.outputs),
            "log": None if log is None else {"tags": self._tags(log)},
            "active": spec.active,
        }

    def _tags(self, tags: Iterable[str]) -> list[str]:
        return sorted(self.ids.tag(tag, to_real=True) for tag in tags)

    @rule(number=NUMBERS, active=st.booleans())
    def activate(self, number: int, active: bool) -> None:
        self._set_active(self.pick(number, self.model.plans), active)

    def _set_active(self, picked: Any, active: bool) -> None:
        path = f"/plans/{self.ids.real(picked)}/active"
        self.act(
            f"{'activate' if active else 'deactivate'} plan {picked}",
            self.ask("PUT" if active else "DELETE", path),
            lambda: self.model.set_active(picked, active),
        )

    # --- Data

    @precondition(lambda self: self._room())
    @rule(tags=REQUIREMENTS, ok=st.sampled_from([True, True, True, False]))
    def push(self, tags: frozenset[str], ok: bool) -> None:
        """The way it is usually done: begun, tagged, ended at once."""
        self._begin_upload()
        run = self.uploads()[-1]
        made: Any = run.outputs["/upload"]
        self._tag(made, set(tags), set(), set())
        self._end_upload(run, ok)

    def _begin_upload(self) -> None:
        run_id, knit_id = self.wait(self.world.begin_upload())
        run = self.model.begin_upload()
        self.ids.bind(run.id, run_id)
        self.ids.bind(run.outputs["/upload"] or 0, knit_id)
        self.log(f"begin_upload run {run.id}: 200")

    @rule(number=NUMBERS, end=st.sampled_from(["well", "well", "broken", None]))
    def upload(self, number: int, end: str | None) -> None:
        """Begins one, or ends one that has begun."""
        runs = self.uploads()
        if runs and end:
            self._end_upload(runs[number % len(runs)], end == "well")
        elif self._room():
            self._begin_upload()

    def _end_upload(self, run: Run, ok: bool) -> None:
        self.act(
            f"end_upload run {run.id} {'well' if ok else 'broken'}",
            self.world.end_upload(self.ids.real(run.id), ok),
            lambda: self.model.end_upload(run.id, ok),
        )

    @rule(
        number=NUMBERS,
        volume=st.sampled_from([0, 1, 2]),
        own=st.sampled_from([False, False, False, True]),
        tags=TAG_SETS,
    )
    def adopt(self, number: int, volume: int, own: bool, tags: frozenset[str]) -> None:
        """A volume of others, new or known; or one of knit's own."""
        known = any(one.adopted == volume and not one.purged for one in self.model.data.values())
        if not (known or own or self._room()):
            return
        named = self.world.foreign_volume(volume)
        if own:
            named = names.volume(KnitId(self.a_data(number)[1]))
        body = {"volumes": [{"volume": named, "tags": sorted(tags)}]}
        answer = self.wait(self.ask("POST", "/adoptions", body))

        def change() -> None:
            at = answer.json()[0]["data"]["upstream"]["run"]["updatedAt"] if not own else ""
            data = self.model.adopt(None if own else volume, tags, self.instant(at))
            assert answer.json()[0]["outcome"] == ("known" if known else "new"), self.report("")
            if not known:
                made = answer.json()[0]["data"]
                self.ids.bind(data.run.id, made["upstream"]["run"]["runId"])
                self.ids.bind(data.id, made["knitId"])

        async def answered() -> Any:
            return answer

        what = "knit's own" if own else f"volume {volume}"
        self.act(f"adopt {what} with {sorted(tags)}", answered(), change)

    def instant(self, at: str) -> str:
        """Gives an instant as the model has it."""
        return at

    @rule(number=NUMBERS, step=st.sampled_from(["purge", "purge", "begin", "end", "end without"]))
    def volume(self, number: int, step: str) -> None:
        """Purges one, or imports one: with it or without, in time or not, once or again."""
        if step == "purge":
            self._purge(self.a_data(number)[0])
        elif step != "begin" and self.tokens:
            self._end_import([*self.tokens][number % len(self.tokens)], there=step == "end")
        elif self._room():
            self._begin_import()
            if not self.imports_stay_open:
                self._end_import([*self.tokens][-1], there=True)

    def _begin_import(self) -> None:
        answer = self.wait(self.ask("POST", "/data/import/begin"))
        begun = import_of(jws.read(answer.text).claims)
        run = self.model.begin_import()
        self.ids.bind(run.id, begun.run_id)
        self.ids.bind(run.outputs["/imported"] or 0, begun.knit_id)
        self.tokens[run.id] = answer.text
        self.log(f"begin_import run {run.id}: {answer.status_code}")

    def _end_import(self, run_id: int, *, there: bool) -> None:
        begun = import_of(jws.read(self.tokens[run_id]).claims)
        if there:
            self.wait(self.world.make_volume(begun.knit_id))
        self.act(
            f"end_import run {run_id} {'with' if there else 'without'} its volume",
            self.ask("POST", "/data/import/end", self.tokens[run_id]),
            lambda: self.model.end_import(run_id, there),
        )

    def _purge(self, picked: Any) -> None:
        self.act(
            f"purge data {picked}",
            self.ask("POST", f"/data/{self.ids.real(picked)}/purge"),
            lambda: self.model.purge(picked),
        )

    def _room(self) -> bool:
        uploaded = [run for run in self.model.runs.values() if run.plan is None]
        return len(uploaded) < self.most_uploads

    @rule(
        number=NUMBERS,
        add=TAG_SETS,
        remove=TAG_SETS,
        key=st.sampled_from([None, None, "t", "v"]),
        system=st.sampled_from([False] * 9 + [True]),
    )
    def tag(
        self,
        number: int,
        add: frozenset[str],
        remove: frozenset[str],
        key: str | None,
        system: bool,
    ) -> None:
        picked, _ = self.a_data(number)
        added = {*add, SYSTEM + "transient:failed"} if system else set(add)
        self._tag(picked, added, set(remove), {key} if key else set())

    def _tag(self, picked: Any, add: set[str], remove: set[str], keys: set[str]) -> None:
        body = {"add": sorted(add), "remove": sorted(remove), "remove_key": sorted(keys)}
        self.act(
            f"tag data {picked} {body}",
            self.ask("PUT", f"/data/{self.ids.real(picked)}", body),
            lambda: self.model.tag(picked, add, remove, keys),
        )

    # --- Runs

    @rule(number=NUMBERS, order=st.sampled_from(["abort", "tearoff"]), fitting=FITTING)
    def stop(self, number: int, order: str, fitting: bool) -> None:
        picked = self._pick_for(order, number, fitting)
        path = f"/runs/{self.ids.real(picked)}/{order}"
        self.act(
            f"{order} run {picked}",
            self.ask("PUT", path),
            lambda: self.model.stop(picked, order == "abort"),
        )

    @rule(
        number=NUMBERS,
        fitting=FITTING,
        first=st.sampled_from([None, None, None, "deactivate", "purge"]),
    )
    def retry(self, number: int, fitting: bool, first: str | None) -> None:
        """Also without an active Plan or its input: by chance the two would seldom meet."""
        picked = self._pick_for("retry", number, fitting)
        run = self.model.runs.get(picked)
        if run and run.plan and first == "deactivate":
            self._set_active(run.plan.id, False)
        elif run and run.plan and first == "purge":
            self._purge(run.inputs[0])
        self.act(
            f"retry run {picked}",
            self.ask("PUT", f"/runs/{self.ids.real(picked)}/retry"),
            lambda: self.model.retry(picked),
        )

    @rule(number=NUMBERS, fitting=FITTING)
    def delete(self, number: int, fitting: bool) -> None:
        picked = self._pick_for("delete", number, fitting)
        self.act(
            f"delete run {picked}",
            self.ask("DELETE", f"/runs/{self.ids.real(picked)}"),
            lambda: self.model.delete(picked),
        )

    def _pick_for(self, order: str, number: int, fitting: bool) -> Any:
        """Mostly a Run that allows it, as far as can be seen at a glance: the others are many."""
        runs = self.model.runs.values()
        used = {one for run in runs if run.status != "invalidated" for one in run.inputs}
        used |= {data.id for data in self.model.data.values() if data.transfers}
        fit = [run.id for run in runs if run.status in ORDERS[order]]
        if order == "retry":
            fit = [one for one in fit if self.model.runs[one].plan]
        if order in ("retry", "delete"):
            fit = [one for one in fit if not used & set(self.model.runs[one].outputs.values())]
        return self.pick(number, fit if fitting and fit else self.model.runs)

    # --- looking

    @rule(
        number=NUMBERS,
        what=st.sampled_from(["history", "runs", "data"]),
        status=st.sampled_from([None, "waiting", "done", "failed"]),
        tags=TAG_SETS,
        transient=st.sampled_from([None, None, "processing", "failed", "purged"]),
    )
    def look_up(
        self,
        number: int,
        what: str,
        status: str | None,
        tags: frozenset[str],
        transient: str | None,
    ) -> None:
        """What the pictures do not show: histories, and lists with conditions."""
        if what == "history":
            self.read_history(number)
        elif what == "runs":
            self.find_runs(number, status)
        else:
            self.find_data(tags, transient)

    def read_history(self, number: int) -> None:
        picked, real = self.a_run(number)
        answer = self.wait(self.ask("GET", f"/runs/{real}/events"))
        self.log(f"read_history run {picked}: {answer.status_code}")
        run = self.model.runs.get(picked)
        assert answer.status_code == (200 if run else 404), self.report("")
        if run:
            seen = [(one["generation"], one.get("from"), one["to"]) for one in answer.json()]
            assert seen == run.history, self.report(f"model {run.history}\nreal  {seen}")

    def find_runs(self, number: int, status: str | None) -> None:
        plan = self.pick(number, self.model.plans)
        filters = f"plan={self.ids.real(plan)}" + (f"&status={status}" if status else "")
        answer = self.wait(self.world.api.get(f"/runs?{filters}"))
        expected = {
            run.id
            for run in self.model.runs.values()
            if run.plan and run.plan.id == plan and run.status == (status or run.status)
            if run.status != "invalidated"
        }
        seen = {self.ids.model(one["runId"]) for one in answer}
        self.log(f"find_runs of plan {plan} {status}: 200")
        assert seen == expected, self.report(f"model {expected}\nreal  {seen}")

    def find_data(self, tags: frozenset[str], transient: str | None) -> None:
        requirement = tags | ({f"{SYSTEM}transient:{transient}"} if transient else set())
        query = "&".join("tag=" + tag.replace("#", "%23") for tag in sorted(requirement))
        answer = self.wait(self.world.api.get(f"/data?{query}"))
        expected = {one.id for one in self.model.data.values() if requirement <= one.shown_tags()}
        seen = {self.ids.model(one["knitId"]) for one in answer}
        self.log(f"find_data {sorted(requirement)}: 200")
        assert seen == expected, self.report(f"model {expected}\nreal  {seen}")


class FastMachine(UserRules[FastWorld]):
    """Every step of the engine is a rule: users act in between, in every state there is."""

    @rule(
        step=st.sampled_from(["round", "project", "admit", "stop"]),
        page_size=st.sampled_from([100, 1, 2]),
        start=st.sampled_from([True, True, False]),
    )
    def work(self, step: str, page_size: int, start: bool) -> None:
        """One of the Projector's steps, or all of them in their order."""
        if step in ("round", "project"):
            self.project(page_size)
        if step == "round":
            self.wait(self.look())  # the new Runs are to be known when they are admitted
        if step in ("round", "admit"):
            self.admit(start)
        if step in ("round", "stop"):
            self.deliver_stops()

    def project(self, page_size: int) -> None:
        self.act(f"project by {page_size}", self.world.project(page_size), self.model.project)

    def admit(self, start: bool) -> None:
        """Admits all that waits; without `start` the engine dies before it notes its workflows."""
        real = self.wait(self.world.admit(start))
        runs = self.model.admit()
        for run in runs:
            run.started = start
        self.log(f"admit {[run.id for run in runs]} start={start}: 200")
        expected = {(run.id, run.generation) for run in runs}
        seen = {(self.ids.model(run_id), generation) for run_id, generation in real}
        assert seen == expected, self.report(f"model {expected}\nreal  {seen}")

    def deliver_stops(self) -> None:
        self.act("deliver_stops", self.world.deliver_stops(), self.model.deliver_stops)

    @precondition(lambda self: self._under_way())
    @rule(
        number=NUMBERS,
        step=st.sampled_from(
            ["end well", "end badly", "finalize", "completing", "aborting", *ORDERS["tearoff"]]
        ),
    )
    def carry_on(self, number: int, step: str) -> None:
        """An execution, by one step (not always a legal one), or to its end."""
        runs = self._under_way()
        run = runs[number % len(runs)]
        if step.startswith("end"):
            self._finish(run, step == "end well")
        elif step == "finalize":
            self._finalize(run, run.generation)
        else:
            self._advance(run, run.generation, step)

    def _advance(self, run: Run, generation: int, target: str) -> None:
        exit = {"completing": 0, "aborting": 1}.get(target)
        self.act(
            f"advance run {run.id} of generation {generation} to {target}",
            self.world.advance(self.ids.real(run.id), generation, target, exit),
            lambda: self.model.advance(run.id, generation, target, exit),
        )

    def _finalize(self, run: Run, generation: int) -> None:
        self.act(
            f"finalize run {run.id} of generation {generation}",
            self.world.finalize(self.ids.real(run.id), generation),
            lambda: self.model.finalize(run.id, generation),
        )

    @precondition(lambda self: self._under_way())
    @rule(number=NUMBERS, earlier=st.sampled_from([False, False, False, True]))
    def disrupt(self, number: int, earlier: bool) -> None:
        """An execution has lost its pod; perhaps one of a generation that is over."""
        runs = (earlier and self._superseded()) or self._under_way()
        run = runs[number % len(runs)]
        generation = run.generation - (earlier and run.generation > 1)
        self.act(
            f"relaunch run {run.id} of generation {generation}",
            self.world.relaunch(self.ids.real(run.id), generation, RELAUNCHES),
            lambda: self.model.relaunch(run.id, generation, RELAUNCHES),
        )

    @precondition(lambda self: self._under_way())
    @rule(ends=ENDS)
    def finish_all(self, ends: list[bool]) -> None:
        for turn, run in enumerate(self._under_way()):
            self._finish(run, ends[turn % len(ends)])

    def go_on(self, ends: list[bool]) -> None:
        self.work("round", 100, True)
        for run, ok in zip(self._under_way(), ends, strict=False):
            self._finish(run, ok)

    def _finish(self, run: Run, ok: bool) -> None:
        for target in ("ready", "starting", "running", "completing" if ok else "aborting"):
            if MOVES[run.status] and target in MOVES[run.status]:
                self._advance(run, run.generation, target)
        self._finalize(run, run.generation)

    @precondition(lambda self: self._imports())
    @rule(number=NUMBERS, late=st.sampled_from([True, True, False]))
    def leave_imports(self, number: int, late: bool) -> None:
        """Lets the time of one go by, and housekeeping come by; or only the latter."""
        if late:
            run = self._imports()[number % len(self._imports())]
            self.wait(self.world.grow_old(self.ids.real(run.id)))
            run.late = True
            self.log(f"grow_old run {run.id}: 200")
        if not late or number % 2:
            self.act("end_late_imports", self.world.end_late_imports(), self.model.end_late_imports)

    def _imports(self) -> list[Run]:
        runs = self.model.runs.values()
        return [run for run in runs if run.source == IMPORTED and MOVES[run.status]]

    @precondition(lambda self: self._superseded())
    @rule(number=NUMBERS, status=st.sampled_from(["ready", "completing", "aborting", None]))
    def go_on_superseded(self, number: int, status: str | None) -> None:
        """An execution of an earlier generation that has not heard of its end."""
        runs = self._superseded()
        run = runs[number % len(runs)]
        if status is None:
            self._finalize(run, run.generation - 1)
        else:
            self._advance(run, run.generation - 1, status)

    @rule(number=NUMBERS, close=st.booleans())
    def download(self, number: int, close: bool) -> None:
        """Begins one, or ends one that has begun."""
        picked, real = self.a_data(number)
        reading = self._downloads()
        if reading and (close or len(reading) > 1):
            open_one = reading[number % len(reading)]
            self.act(
                f"close_download data {open_one}",
                self.world.close_download(self.ids.real(open_one)),
                lambda: self.model.read(open_one, -1),
            )
        elif picked not in self.model.data or not self.model.data[picked].transfers:
            self.act(
                f"open_download data {picked}",
                self.world.open_download(real),
                lambda: self.model.read(picked, 1),
            )

    def _under_way(self) -> list[Run]:
        return [run for run in self.model.runs.values() if run.admitted and MOVES[run.status]]

    def _superseded(self) -> list[Run]:
        return [run for run in self.model.runs.values() if run.generation > 1]

    def _downloads(self) -> list[int]:
        written = {run.outputs["/upload"] for run in self.uploads()}
        data = self.model.data.values()
        return [one.id for one in data if one.transfers and one.id not in written]


class WholeMachine(UserRules[WholeWorld]):
    """The engine does by itself what it has to, down to run pods that run until they are ended."""

    most_plans, most_uploads = 3, 3
    imports_stay_open = False  # an order to stop one waits for housekeeping's next turn

    def instant(self, at: str) -> str:
        return LATER

    def clock(self, run: Run) -> str:
        """The engine has not come so far yet: a word that the real instant is shown as, too."""
        return LATER

    @precondition(lambda self: self._running())
    @rule(number=NUMBERS, ok=st.sampled_from([True, True, False]))
    def end_pod(self, number: int, ok: bool) -> None:
        run = self._running()[number % len(self._running())]

        def change() -> None:
            target = "completing" if ok else "aborting"
            self.model.advance(run.id, run.generation, target, 0 if ok else 1)
            self.model.finalize(run.id, run.generation)

        self.act(
            f"end_pod run {run.id} {'well' if ok else 'badly'}",
            self.world.end_pod(self.ids.real(run.id), run.generation, ok),
            change,
        )

    def _running(self) -> list[Run]:
        return [run for run in self.model.runs.values() if run.plan and run.status == "running"]

    def _come_to_rest(self) -> None:
        """What the engine does until nothing is left to do, as the model has it."""
        before = None
        while before != (before := picture_of_model(self.model)):
            self.model.project()
            for run in self.model.admit():
                run.started = True
                for target in ("ready", "starting", "running"):
                    self.model.advance(run.id, run.generation, target)
            self.model.deliver_stops()

    async def _same_in_time(self) -> str:
        expected = picture_of_model(self.model)
        differs = "nothing was looked at"
        ends = asyncio.get_running_loop().time() + SLOW_PATIENCE
        while differs and asyncio.get_running_loop().time() < ends:
            differs = difference(expected, _without_instants(await self.look()))
            await asyncio.sleep(0.05 if differs else 0)
        return differs

    @invariant()
    def same(self) -> None:
        self._come_to_rest()
        differs = self.wait(self._same_in_time())
        assert not differs, self.report(differs)
        self._bury()
        UserRules.steps += bool(self.story)


def _without_instants(picture: Picture) -> Picture:
    for one in picture["data"].values():
        pairs = [tag.partition("timestamp:") for tag in one["tags"]]
        one["tags"] = [head + word + (LATER if word else rest) for head, word, rest in pairs]
    return picture
