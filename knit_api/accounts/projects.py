"""What a caller who is bound to projects sees of the store, and may change: what is theirs.

A project is a tag. Theirs are Data with one of its tags, Plans all of whose inputs and outputs (the
log included) have one, the Runs of those, and the Runs of uploads and imports whose Data is theirs.
Everything else does not exist for them; where it is a neighbour, it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, cast

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.data import Adopted, Adoption, DataDetail, DataQuery, Purge, TagChange
from knit_workflows.domain.errors import (
    DataNotFound,
    InvalidPlan,
    InvalidRequest,
    InvalidTag,
    NotFound,
    PlanNotFound,
    RunNotFound,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.imports import Import
from knit_workflows.domain.lineage import Edge, Lineage, LineageGraph
from knit_workflows.domain.plans.model import (
    LinkedMountpoint,
    PlanDetail,
    PlanPreview,
    PlanQuery,
    PlanSpec,
    PlanSummary,
)
from knit_workflows.domain.ports import ApiStore, Situation
from knit_workflows.domain.runs.run import RunDetail, RunEvent, RunQuery, RunSummary
from knit_workflows.domain.tags import KEY_TIMESTAMP, Tag, parse_timestamp

Projects = frozenset[Tag]

HIDDEN: Final = "(of another project)"
"""Shown in place of a Plan that is not theirs, where a Run of it has made a Data of theirs."""
_MAX_CLAIMED: Final = 400
"""So many characters of any language leave the token of an import below jws.MAX_CHARS."""
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def seen_by(store: ApiStore, projects: Projects) -> ApiStore:
    """Gives the store as a caller sees it who is bound to these projects; none: all of it."""
    return cast("ApiStore", _ProjectStore(store, projects)) if projects else store


async def shown_to(store: ApiStore, projects: Projects | None, one: DataDetail) -> DataDetail:
    """Gives a Data as a caller sees it who is bound to these projects, be it theirs or not.

    None: nobody knows to which, so that all neighbours that come after it are left out.
    """
    if projects is None:
        return replace(one, downstreams=(), nominations=())
    return await _ProjectStore(store, projects).shown(one) if projects else one


def tagged(projects: Projects, tags: frozenset[Tag]) -> frozenset[Tag]:
    """Gives the tags of a new Data: with a caller's only project, or one of several as they are.

    Raises:
        InvalidTag: none of several projects is among them.
    """
    if not projects or projects & tags:
        return tags
    if len(projects) == 1:
        return tags | projects
    raise InvalidTag(
        "the Data would belong to none of your projects",
        advice=f"give it one of the tags {_named(projects)}",
    )


def _named(projects: Projects) -> str:
    return ", ".join(str(tag) for tag in sorted(projects))


class _Part:
    """A part of the store; what is not said here is as in the whole store."""

    def __init__(self, whole: _ProjectStore) -> None:
        self._whole = whole
        self._store = whole.store
        self._projects = whole.projects


class _ProjectStore:
    def __init__(self, store: ApiStore, projects: Projects) -> None:
        self.store = store
        self.projects = projects
        self._plan_ids: frozenset[PlanId] | None = None
        self.data = _Data(self)
        self.adoptions = _Adoptions(self)
        self.imports = _Imports(self)
        self.plans = _Plans(self)
        self.runs = _Runs(self)
        self.lineage = _LineageOf(self)
        self.completions = _Completions(self)
        self.situation = _SituationOf(self)

    async def plan_ids(self) -> frozenset[PlanId]:
        """Gives the Plans that are theirs; looked up once per request."""
        if self._plan_ids is None:
            self._plan_ids = await self.store.plans.within(self.projects)
        return self._plan_ids

    def owns(self, tags: Iterable[Tag]) -> bool:
        return not self.projects.isdisjoint(tags)

    async def owns_run(self, run: RunDetail) -> bool:
        if run.summary.plan.name is None:
            return run.summary.plan.plan_id in await self.plan_ids()
        made = [one.knit_id for one in run.outputs if one.knit_id is not None]
        return any([self.owns((await self.store.data.get(one)).tags) for one in made])

    async def shown(self, one: DataDetail) -> DataDetail:
        """Gives a Data of theirs without neighbours that are not."""
        theirs = await self.plan_ids()
        run = one.upstream.run
        if run.plan.name is None and run.plan.plan_id not in theirs:
            one = replace(one, upstream=replace(one.upstream, tags=(), run=_hidden(run)))
        return replace(
            one,
            downstreams=tuple(x for x in one.downstreams if x.run.plan.plan_id in theirs),
            nominations=tuple(x for x in one.nominations if x.plan.plan_id in theirs),
        )


def _hidden(run: RunSummary) -> RunSummary:
    return replace(run, exit=None, plan=PlanSummary(run.plan.plan_id, None, HIDDEN))


class _Data(_Part):
    async def find(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        found: dict[str, DataDetail] = {}
        for project in self._projects:
            asked = replace(query, tags=(*query.tags, project))
            for one in await self._store.data.find(asked, limit=limit, after=after):
                found[one.knit_id] = one
        return [await self._whole.shown(one) for one in sorted(found.values(), key=_place)[:limit]]

    async def find_ids(self, query: DataQuery, *, after: str | None = None) -> Sequence[str]:
        if len(self._projects) == 1:
            asked = replace(query, tags=(*query.tags, *self._projects))
            return await self._store.data.find_ids(asked, after=after)
        return await self._store.data.find_ids(query, after=after, among=self._projects)

    async def get_each(self, knit_ids: Sequence[str]) -> Sequence[DataDetail]:
        found = await self._store.data.get_each(knit_ids)
        return [await self._whole.shown(one) for one in found if self._whole.owns(one.tags)]

    async def get(self, knit_id: KnitId) -> DataDetail:
        return await self._whole.shown(await self._own(knit_id))

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        await self._own(knit_id)
        changed = await self._store.data.change_tags(knit_id, change, keeping=self._projects)
        return await self._whole.shown(changed)

    async def purge(self, knit_id: KnitId, *, actor: str, dry_run: bool = False) -> Purge:
        await self._own(knit_id)
        purge = await self._store.data.purge(knit_id, actor=actor, dry_run=dry_run)
        return replace(purge, data=await self._whole.shown(purge.data))

    async def _own(self, knit_id: KnitId) -> DataDetail:
        one = await self._store.data.get(knit_id)
        if not self._whole.owns(one.tags):
            raise _missing(DataNotFound, "Data", knit_id)
        return one


def _missing(kind: type[NotFound], noun: str, one: str) -> NotFound:
    """Gives the error for what is not theirs: the same as for what does not exist."""
    of = " of yours" if noun == "Plan" else ""
    advice = f"look for it with: knit {noun.lower()} find"
    return kind(f"there is no {noun} {one}{of}", advice=advice, see=one)


def _place(one: DataDetail) -> tuple[datetime, str]:
    stamps = (parse_timestamp(tag.value) for tag in one.tags if tag.key == KEY_TIMESTAMP)
    return next(stamps, _LAST), one.knit_id


class _Adoptions(_Part):
    async def known(self, volumes: Sequence[str]) -> Mapping[str, KnitId]:
        return await self._store.adoptions.known(volumes)

    async def adopt(self, adoptions: Sequence[Adoption], *, actor: str) -> Sequence[Adopted]:
        asked = [replace(one, tags=tagged(self._projects, one.tags)) for one in adoptions]
        found = await self._store.adoptions.adopt(asked, among=self._projects, actor=actor)
        return [replace(one, data=await self._whole.shown(one.data)) for one in found]


class _Imports(_Part):
    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.imports, name)

    async def begin(self, *, actor: str) -> Import:
        if len(self._projects) > 1:
            raise InvalidRequest(
                "bad request: an import cannot say to which of your projects its Data belongs",
                advice="begin it with a token that is bound to one project",
            )
        if any(len(str(project)) > _MAX_CLAIMED for project in self._projects):
            raise InvalidRequest(
                f"bad request: your project has more than {_MAX_CLAIMED} characters, which the "
                "token of an import cannot carry",
                advice="begin it with a token that is bound to a shorter tag",
            )
        begun = await self._store.imports.begin(actor=actor)
        # Its token is given only after this, so nobody can end it without the tag.
        await self._store.data.change_tags(begun.knit_id, TagChange(add=self._projects))
        return begun


class _Plans(_Part):
    def __getattr__(self, name: str) -> Any:
        """Gives a change of a Plan, for Plans of theirs."""
        change = getattr(self._store.plans, name)

        async def changed(plan_id: PlanId, *arguments: Any, **options: Any) -> PlanDetail:
            await self.get(plan_id)
            return await self._shown(await change(plan_id, *arguments, **options))

        return changed

    async def register(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        self._require_own(spec)
        made = await self._store.plans.register(spec, new_runs_limit=new_runs_limit)
        return await self._shown(made)

    async def preview(self, spec: PlanSpec, *, limit: int) -> PlanPreview:
        self._require_own(spec)
        return await self._store.plans.preview(spec, limit=limit)

    async def find(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        theirs = await self._whole.plan_ids()
        asked = theirs if query.plan_ids is None else query.plan_ids & theirs
        found = await self._store.plans.find(
            replace(query, plan_ids=asked), limit=limit, after=after
        )
        return [await self._shown(one) for one in found]

    async def get(self, plan_id: PlanId) -> PlanDetail:
        if plan_id not in await self._whole.plan_ids():
            raise _missing(PlanNotFound, "Plan", plan_id)
        return await self._shown(await self._store.plans.get(plan_id))

    async def _shown(self, plan: PlanDetail) -> PlanDetail:
        theirs = await self._whole.plan_ids()

        def without(place: LinkedMountpoint) -> LinkedMountpoint:
            return replace(
                place, links=tuple(one for one in place.links if one.plan.plan_id in theirs)
            )

        return replace(
            plan,
            inputs=tuple(map(without, plan.inputs)),
            outputs=tuple(map(without, plan.outputs)),
            log=plan.log and without(plan.log),
        )

    def _require_own(self, spec: PlanSpec) -> None:
        places = [(one.path, one.requirement.tags) for one in spec.inputs]
        places += [(one.path, one.tags) for one in spec.outputs]
        places += [("the log", spec.log)] if spec.log is not None else []
        for path, tags in places:
            if not self._whole.owns(tags):
                raise InvalidPlan(
                    f"{path} has no tag of your projects",
                    advice=f"give every input, every output and the log one of the tags "
                    f"{_named(self._projects)}",
                )


class _Runs(_Part):
    def __getattr__(self, name: str) -> Any:
        """Gives a change of a Run, for Runs of theirs."""
        change = getattr(self._store.runs, name)

        async def changed(run_id: RunId, *arguments: Any, **options: Any) -> Any:
            await self.get(run_id)
            return await change(run_id, *arguments, **options)

        return changed

    async def find(
        self, query: RunQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[RunDetail]:
        theirs = await self._whole.plan_ids()
        asked = query.plan_ids & theirs if query.plan_ids else theirs
        if not asked:
            return []
        return await self._store.runs.find(replace(query, plan_ids=asked), limit=limit, after=after)

    async def find_ids(self, query: RunQuery, *, after: str | None = None) -> Sequence[str]:
        theirs = await self._whole.plan_ids()
        asked = query.plan_ids & theirs if query.plan_ids else theirs
        if not asked:
            return []
        return await self._store.runs.find_ids(replace(query, plan_ids=asked), after=after)

    async def get_each(self, run_ids: Sequence[str]) -> Sequence[RunDetail]:
        found = await self._store.runs.get_each(run_ids)
        return [one for one in found if await self._whole.owns_run(one)]

    async def get(self, run_id: RunId) -> RunDetail:
        run = await self._store.runs.get(run_id)
        if not await self._whole.owns_run(run):
            raise _missing(RunNotFound, "Run", run_id)
        return run

    async def events(self, run_id: RunId) -> Sequence[RunEvent]:
        await self.get(run_id)
        return await self._store.runs.events(run_id)


class _LineageOf(_Part):
    async def get(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> Lineage:
        await self._whole.data.get(knit_id)
        whole = await self._store.lineage.get(
            knit_id, upstream=upstream, downstream=downstream, limit=limit
        )
        data = [one for one in whole.data if self._whole.owns(one.tags)]
        shown = {one.knit_id for one in data}
        runs = [one for one in whole.runs if await self._is_theirs(one, shown)]
        left_out = len(whole.data) - len(data) + len(whole.runs) - len(runs)
        return Lineage(tuple([await self._whole.shown(one) for one in data]), tuple(runs), left_out)

    async def graph(
        self, knit_id: KnitId, *, upstream: int | None, downstream: int | None, limit: int
    ) -> LineageGraph:
        found = await self.get(knit_id, upstream=upstream, downstream=downstream, limit=limit)
        shown = {one.knit_id for one in found.data}
        edges = [edge for run in found.runs for edge in _edges(run) if edge.knit_id in shown]
        return LineageGraph(
            tuple(one.knit_id for one in found.data),
            tuple(one.summary.run_id for one in found.runs),
            tuple(edges),
            found.left_out,
        )

    async def _is_theirs(self, run: RunDetail, shown: set[KnitId]) -> bool:
        if run.summary.plan.name is None:
            return run.summary.plan.plan_id in await self._whole.plan_ids()
        return any(one.knit_id in shown for one in run.outputs)


def _edges(run: RunDetail) -> Iterable[Edge]:
    run_id = run.summary.run_id
    for one in run.inputs:
        if one.knit_id is not None:
            yield Edge(run_id, one.knit_id, one.path, True)
    for one in run.outputs:
        if one.knit_id is not None:
            yield Edge(run_id, one.knit_id, one.path, False)
    if run.log is not None and run.log.knit_id is not None:
        yield Edge(run_id, run.log.knit_id, None, False)


class _SituationOf(_Part):
    async def look(self, *, plan_ids: frozenset[str] | None = None) -> Situation:
        """Looks at the Runs of their Plans; uploads and imports are left out."""
        theirs = await self._whole.plan_ids()
        chosen = theirs if plan_ids is None else plan_ids & theirs
        return await self._store.situation.look(plan_ids=chosen)


class _Completions(_Part):
    async def find(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        """Gives nothing: tags and ids are indexed without regard to projects."""
        return []
