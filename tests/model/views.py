"""One picture of everything visible, painted from the model and from the real system's answers.

The real one is painted in the model's ids. Which id is which follows from structure: a Run is known
by its Plan and its inputs, a Data by its Run and its path. Every id is bound once and for ever, so
that a Data that keeps its id over a retry, or a Run made twice, stands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.model.model import LOG, Data, Model, Run

UNKNOWN = "00000000-0000-4000-8000-000000000000"
Picture = dict[str, Any]


class Ids:
    """Which real id belongs to which id of the model."""

    def __init__(self) -> None:
        self._real: dict[int, str] = {}
        self._model: dict[str, int] = {}

    def bind(self, model_id: int, real_id: str) -> None:
        assert model_id not in self._real, f"{model_id} is {self._real[model_id]} already"
        assert real_id not in self._model, f"{real_id} is {self._model[real_id]} already"
        self._real[model_id], self._model[real_id] = real_id, model_id

    def real(self, model_id: int | None) -> str:
        return self._real.get(model_id or 0, UNKNOWN)

    def model(self, real_id: str) -> int | str:
        """The real id itself stands for what the model knows nothing of."""
        return self._model.get(real_id, real_id)

    def tag(self, tag: str, *, to_real: bool) -> str:
        key, _, value = tag.partition(":")
        if key != "knit#id":
            return tag
        return f"{key}:{self.real(int(value)) if to_real else self.model(value)}"

    def bound(self) -> Iterable[int]:
        return self._real

    def meet(self, model: Model, runs: Sequence[Mapping[str, Any]]) -> None:
        """Binds the Runs and Data that are new, on both sides, since the last time."""
        waiting = {
            (run.plan.id, tuple(assigned(run).items())): run
            for run in model.runs.values()
            if run.plan and run.id not in self._real
        }
        for one in runs:
            if isinstance(self.model(one["runId"]), str):
                inputs = {place["path"]: self.model(place["knitId"]) for place in one["inputs"]}
                key = self.model(one["plan"]["planId"]), tuple(sorted(inputs.items()))
                if key in waiting:
                    self.bind(waiting.pop(key).id, one["runId"])
            run = model.runs.get(self.model(one["runId"]))  # type: ignore[arg-type]
            for path, knit_id in outputs_of(one).items() if run else ():
                made = run.outputs.get(path)  # type: ignore[union-attr]
                new = knit_id and isinstance(self.model(knit_id), str)
                if new and made is not None and made not in self._real:
                    self.bind(made, knit_id)


def assigned(run: Run) -> dict[str, int]:
    paths = [path for path, _ in run.plan.spec.inputs] if run.plan else []
    return dict(zip(paths, run.inputs, strict=True))


def outputs_of(wire: Mapping[str, Any]) -> dict[str, str]:
    outputs = {one["path"]: one["knitId"] for one in wire["outputs"]}
    return outputs | ({LOG: wire["log"]["knitId"]} if wire["log"] else {})


def picture_of_model(model: Model) -> Picture:
    return {
        "plans": {plan.id: plan.active for plan in model.plans.values()},
        "listed": sorted(run.id for run in model.runs.values() if run.status != "invalidated"),
        "runs": {run.id: _run(run) for run in model.runs.values()},
        "data": {data.id: _data(model, data) for data in model.data.values()},
    }


def picture_of_answers(
    ids: Ids,
    plans: Sequence[Mapping[str, Any]],
    listed: Sequence[Mapping[str, Any]],
    tombstones: Sequence[Mapping[str, Any]],
    data: Sequence[Mapping[str, Any]],
) -> Picture:
    return {
        "plans": {ids.model(one["planId"]): one["active"] for one in plans if "name" not in one},
        "listed": sorted((ids.model(one["runId"]) for one in listed), key=_numbers_first),
        "runs": {
            ids.model(one["runId"]): _answered_run(ids, one) for one in [*listed, *tombstones]
        },
        "data": {ids.model(one["knitId"]): _answered_data(ids, one) for one in data},
    }


def difference(expected: Picture, seen: Picture) -> str:
    """The places where two pictures differ; empty: they are the same."""
    lines = []
    for kind, wanted in expected.items():
        if not isinstance(wanted, dict):
            wanted, found = {"ids": wanted}, {"ids": seen[kind]}
        else:
            found = seen[kind]
        for one in sorted(wanted.keys() | found.keys(), key=_numbers_first):
            if wanted.get(one) != found.get(one):
                lines.append(f"{kind} {one}: model {wanted.get(one)}")
                lines.append(f"{kind} {one}: real  {found.get(one)}")
    return "\n".join(lines)


def _run(run: Run) -> Picture:
    return {
        "plan": run.plan.id if run.plan else run.source,
        "status": run.status,
        "exit": run.exit,
        "generation": run.generation,
        "inputs": assigned(run),
        "outputs": run.outputs,
    }


def _answered_run(ids: Ids, one: Mapping[str, Any]) -> Picture:
    plan = one["plan"]
    return {
        "plan": plan["name"] if "name" in plan else ids.model(plan["planId"]),
        "status": one["status"],
        "exit": one["exit"]["code"] if "exit" in one else None,
        "generation": one["generation"],
        "inputs": {place["path"]: ids.model(place["knitId"]) for place in one["inputs"]},
        "outputs": {path: ids.model(i) if i else None for path, i in outputs_of(one).items()},
    }


def _data(model: Model, data: Data) -> Picture:
    return {
        "tags": sorted(data.shown_tags()),
        "made by": next((data.run.id, p) for p, i in data.run.outputs.items() if i == data.id),
        "used by": sorted(
            (run.id, path)
            for run in model.runs.values()
            if run.status != "invalidated"
            for path, used in assigned(run).items()
            if used == data.id
        ),
        "fills": sorted(
            (plan.id, path)
            for plan in model.plans.values()
            for path, requirement in plan.spec.inputs
            if data.fills(requirement)
        ),
    }


def _answered_data(ids: Ids, one: Mapping[str, Any]) -> Picture:
    upstream = one["upstream"]
    path = LOG if "log" in upstream else upstream["mountpoint"]["path"]
    used = ((ids.model(u["run"]["runId"]), u["mountpoint"]["path"]) for u in one["downstreams"])
    filled = ((ids.model(n["plan"]["planId"]), n["path"]) for n in one["nomination"])
    return {
        "tags": sorted(ids.tag(tag, to_real=False) for tag in one["tags"]),
        "made by": (ids.model(upstream["run"]["runId"]), path),
        "used by": sorted(used, key=_pairs_of_numbers_first),
        "fills": sorted(filled, key=_pairs_of_numbers_first),
    }


def _numbers_first(one: int | str) -> tuple[bool, int, str]:
    return (True, 0, one) if isinstance(one, str) else (False, one, "")


def _pairs_of_numbers_first(pair: tuple[int | str, str]) -> Any:
    return _numbers_first(pair[0]), pair[1]
