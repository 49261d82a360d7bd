"""Whether what the database remembers is whole: the edges of the lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from knit_workflows.domain.ids import RunId
from knit_workflows.domain.matching import assignment_hash
from knit_workflows.domain.ports.agreement import AgreementStore, RunEdges
from knit_workflows.inspection.findings import Finding

PAGE = 2_000
MOST = 10_000
"""Findings of one kind; who has more needs a backup, not a list."""
_BACKUP = "restore the database from a backup: nothing else knows it"


async def check_edges(store: AgreementStore, counted: Counter[str]) -> AsyncIterator[Finding]:
    """Compares each Run's inputs with the hash of the combination that it was made of."""
    after: RunId | None = None
    while page := await store.edges(after=after, limit=PAGE):
        counted["Runs"] += len(page)
        for one in page:
            if finding := _lost_inputs(one):
                yield finding
        after = page[-1].run_id
    for lost in await store.lost_outputs(limit=MOST):
        what = f"its output {lost.path}" if lost.path else "its log"
        yield Finding("edges", f"Run {lost.run_id}", f"{what} has no Data", _BACKUP)


def _lost_inputs(one: RunEdges) -> Finding | None:
    missing = one.inputs.count(None)
    if missing:
        message = f"{missing} of its {len(one.inputs)} inputs have no Data"
    else:
        present = {place: knit_id for place, knit_id in enumerate(one.inputs) if knit_id}
        if assignment_hash(present) == one.digest:
            return None
        message = "its inputs are others than those of which it was made"
    return Finding("edges", f"Run {one.run_id}", message, _BACKUP)
