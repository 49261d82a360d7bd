"""`AdoptionStore` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from knit_workflows import names
from knit_workflows.domain.data import Adopted, Adoption, check_adoptions
from knit_workflows.domain.errors import VolumeRefused
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import IMPORTED
from knit_workflows.domain.runs.run import USER, RunEvent, RunStatus
from knit_workflows.domain.tags import Tag
from tests.memory_store.details import data_detail
from tests.memory_store.matching import project_data
from tests.memory_store.memory import DataRow, Memory, Part, RunRow


class MemoryAdoptions(Part):
    """Volumes of others."""

    async def known(self, volumes: Sequence[str]) -> Mapping[str, KnitId]:
        return {
            one.adopted_volume: one.knit_id
            for one in self.rows.data.values()
            if one.adopted_volume in volumes and not one.purged
        }

    async def adopt(
        self,
        adoptions: Sequence[Adoption],
        *,
        among: frozenset[Tag] = frozenset(),
        actor: str = USER,
    ) -> Sequence[Adopted]:
        rows = self.rows
        check_adoptions(adoptions)
        for one in adoptions:
            if names.is_own_volume(one.volume):
                raise VolumeRefused(f"the volume {one.volume} is knit's own", see=one.volume)
        known = await self.known([one.volume for one in adoptions])
        for volume, knit_id in known.items():
            if among and not among & rows.data[knit_id].tags:
                raise VolumeRefused(f"{volume}: none of your projects", advice="ask", see=volume)
        found = []
        for one in adoptions:
            if one.volume in known:
                data = rows.data[known[one.volume]]
            else:
                data = _adopted(rows, one.volume, actor)
            if one.tags - data.tags or one.volume not in known:
                data.tags |= one.tags
                rows.tags |= one.tags
                project_data(rows, data)
            found.append(Adopted(one.volume, data_detail(rows, data), one.volume not in known))
        return found


def _adopted(memory: Memory, volume: str, actor: str) -> DataRow:
    plan = next(one for one in memory.plans.values() if one.name == IMPORTED)
    (output,) = plan.spec.outputs
    at = memory.now()
    run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
    run = RunRow(run_id, plan.plan_id, RunStatus.DONE, at, at)
    run.outputs[output.path] = knit_id
    run.events.append(RunEvent(at, 1, None, run.status, "volume adopted", None, actor))
    memory.runs[run_id] = run
    data = DataRow(knit_id, run_id, output.path, set(), at, adopted_volume=volume)
    memory.data[knit_id] = data
    return data
