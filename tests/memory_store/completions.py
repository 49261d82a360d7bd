"""`CompletionStore` in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.runs.run import RunStatus
from tests.memory_store.memory import DataRow, Part, PlanRow, RunRow

_LONGEST_TAG = 1000


class MemoryCompletions(Part):
    """What begins like this."""

    async def find(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        kinds = {
            Noun.DATA: self._data,
            Noun.RUNS: self._runs,
            Noun.PLANS: self._plans,
            Noun.TAGS: self._tags,
            Noun.KEYS: self._keys,
        }
        if noun not in (Noun.TAGS, Noun.KEYS):
            prefix = prefix.lower()
        found = [one for one in kinds[noun]() if one.value.startswith(prefix)]
        if prefix and noun in (Noun.DATA, Noun.RUNS):
            found.sort(key=lambda one: one.value)
        return found[:limit]

    def _data(self) -> Iterable[Completion]:
        def age(one: DataRow) -> tuple[object, ...]:
            return one.timestamp is not None, one.timestamp, one.knit_id

        for one in sorted(self.rows.data.values(), key=age, reverse=True):
            yield Completion(one.knit_id, " ".join(map(str, sorted(one.tags)))[:200])

    def _runs(self) -> Iterable[Completion]:
        def age(run: RunRow) -> tuple[object, ...]:
            return run.updated_at, run.run_id

        for run in sorted(self.rows.runs.values(), key=age, reverse=True):
            if run.status is not RunStatus.INVALIDATED:
                words = f"{run.status} {_words(self.rows.plans[run.plan_id])}"
                yield Completion(run.run_id, words)

    def _plans(self) -> Iterable[Completion]:
        for plan in sorted(self.rows.plans.values(), key=lambda one: one.created_at, reverse=True):
            yield Completion(plan.plan_id, _words(plan))

    def _tags(self) -> Iterable[Completion]:
        for tag in sorted(self.rows.tags, key=str):
            if len(tag.key) + len(tag.value) < _LONGEST_TAG:
                yield Completion(str(tag), "")

    def _keys(self) -> Iterable[Completion]:
        return [Completion(key, "") for key in sorted({tag.key for tag in self.rows.tags})]


def _words(plan: PlanRow) -> str:
    return plan.name or f"image = {plan.spec.image}"
