"""What is read of a lost lineage: newest generations, what was used, and what is not known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from knit_workflows.compute.base import FoundVolume
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.inspection.rebuild import lineage_of
from knit_workflows.inspection.remains import Remains, counts

PLAN, RUN, NEXT, UPLOAD, MADE, LATER, LOG = (
    f"{digit}0000000-0000-4000-8000-000000000000" for digit in range(1, 8)
)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def origin(
    run_id: str, used: str, made: list[str], generation: int = 1, *, hashed: str = "",
    at: str = "2026-01-01T00:00:00+00:00", **more: Any,
) -> str:  # fmt: skip
    value = {
        "version": 1,
        "run": {
            "run_id": run_id, "generation": generation, "priority": 0,
            "assignment_hash": hashed or run_id.replace("-", ""),
            "created_at": at,
        },
        "inputs": [[0, used, f"data-knitid-{used}"]],
        "outputs": [[number, one] for number, one in enumerate(made, 1)],
        "plan": {
            "plan_id": PLAN, "inputs": [], "outputs": [], "identity_hash": "h",
            "created_at": "2026-01-01",
        },
        **more,
    }  # fmt: skip
    return json.dumps(value)


def volume(knit_id: str, origin: str = "", *, days: int = 0) -> FoundVolume:
    return FoundVolume(f"data-knitid-{knit_id}", AT + timedelta(days=days), origin)


def found(*volumes: FoundVolume, unknown_is_done: bool = False) -> Remains:
    remains = Remains()
    for one in volumes:
        remains.add(one)
    remains.settle(unknown_is_done=unknown_is_done)
    return remains


def test_what_was_used_is_done_and_what_nobody_knows_has_failed():
    first, second = origin(RUN, UPLOAD, [MADE]), origin(NEXT, MADE, [LATER])
    remains = found(volume(UPLOAD), volume(MADE, first), volume(LATER, second))
    assert remains.runs[RUN].status is RunStatus.DONE
    assert remains.runs[NEXT].status is RunStatus.FAILED
    assert "not known" in str(remains.runs[NEXT].exit_message)
    assert remains.missing == {"Runs of which nobody knows how they have ended": 1}
    assert remains.uploads() == {UPLOAD: f"data-knitid-{UPLOAD}"}
    assert counts(remains, remains.uploads()) == {
        "Plans": 1, "Runs done": 1, "Runs failed": 1, "Data of Runs": 2,
        "Data without a known Run": 1, "edges": 2,
    }  # fmt: skip
    trusting = found(volume(LATER, second), unknown_is_done=True)
    assert trusting.runs[NEXT].status is RunStatus.DONE


def test_an_earlier_generation_is_left_out_whichever_comes_first():
    old, new = origin(RUN, UPLOAD, [MADE]), origin(RUN, UPLOAD, [LATER], 2)
    for volumes in (
        [volume(MADE, old), volume(LATER, new)],
        [volume(LATER, new), volume(MADE, old)],
    ):
        remains = found(*volumes)
        assert [knit_id for _, knit_id in remains.runs[RUN].outputs] == [LATER]
        assert MADE not in remains.uploads(), "what a retry has discarded is no upload"


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        "null",
        '{"version": 1}',
        origin("no id", UPLOAD, [MADE]),
        origin(RUN, "no id", [MADE]),
        origin(RUN, UPLOAD, [MADE], version=2),
        origin(RUN, UPLOAD, [MADE], inputs=7),
        origin(RUN, UPLOAD, [MADE], 1 << 31),
        origin(RUN, UPLOAD, [MADE], outputs=[[1 << 15, MADE]]),
        origin(RUN, UPLOAD, [MADE], inputs=[[float("inf"), UPLOAD, "v"]]),
        origin(RUN, UPLOAD, [MADE], volumes=7),
        origin(RUN, UPLOAD, [MADE], volumes={MADE: "/srv/others"}),
        origin(RUN, UPLOAD, [MADE], plan={"plan_id": PLAN, "args": ["a\0b"]}),
        "[" * 200_000,
    ],
)
def test_an_origin_that_cannot_be_read_is_counted_and_its_data_kept(broken: str):
    remains = found(volume(MADE, broken))
    assert remains.runs == {}
    assert remains.missing == {"volumes with an origin that cannot be read": 1}
    assert list(remains.uploads()) == [MADE]


def test_a_plan_that_was_registered_twice_is_the_newer_one():
    other = {
        "plan_id": NEXT, "inputs": [], "outputs": [], "identity_hash": "h",
        "created_at": "2025-01-01",
    }  # fmt: skip
    remains = found(
        volume(MADE, origin(RUN, UPLOAD, [MADE])),
        volume(LATER, origin(NEXT, UPLOAD, [LATER], plan=other)),
    )
    assert list(remains.plans) == [PLAN]
    assert list(remains.runs) == [RUN]
    assert remains.missing["Runs of Plans that were registered once more"] == 1
    assert LATER in remains.uploads()


def test_a_plan_is_as_its_newest_run_saw_it_whichever_comes_first():
    plan = {
        "plan_id": PLAN, "inputs": [], "outputs": [], "identity_hash": "h",
        "created_at": "2026-01-01",
    }  # fmt: skip
    old, new = (
        FoundVolume(
            f"data-knitid-{made}",
            AT + timedelta(days=priority),
            origin(run_id, UPLOAD, [made], plan=plan | {"priority": priority}),
        )
        for priority, (run_id, made) in enumerate([(RUN, MADE), (NEXT, LATER)])
    )
    for volumes in ([old, new], [new, old]):
        assert found(*volumes).plans[PLAN]["priority"] == 1


OTHER, EARLIER = ("data-knitid-" + one.replace("0-0", "9-9") for one in (MADE, LATER))


def made_into(remains: Remains) -> dict[str, tuple[str, bool]]:
    lineage = lineage_of(remains, remains.uploads())
    return {one["knit_id"]: (one["volume"], one["is_gone"]) for one in lineage.data}


def test_data_may_be_in_a_volume_that_is_not_called_after_them():
    """As those of Runs that waited when they were restored; once their origins did not say so."""
    told, silent = origin(RUN, UPLOAD, [MADE], volumes={MADE: OTHER}), origin(RUN, UPLOAD, [MADE])
    user = origin(NEXT, MADE, [LATER], inputs=[[0, MADE, OTHER]])
    for volumes in (
        [FoundVolume(OTHER, AT, told)],
        [FoundVolume(OTHER, AT, told), volume(LATER, user)],
        [FoundVolume(OTHER, AT, silent), volume(LATER, user)],
        [volume(LATER, user), FoundVolume(OTHER, AT, silent)],
    ):
        remains = found(volume(UPLOAD), *volumes)
        assert made_into(remains)[MADE] == (OTHER, False)
        assert list(remains.uploads()) == [UPLOAD]


def test_of_data_that_were_made_again_the_newest_count_whichever_come_first():
    """Volumes may outlive a database, and what has gone before the restore goes again after it."""
    before, after = ({MADE: one} for one in (f"data-knitid-{MADE}", OTHER))
    used = origin(NEXT, MADE, [LATER]), origin(NEXT, MADE, [LATER], inputs=[[0, MADE, OTHER]])
    volumes = [
        volume(UPLOAD),
        volume(MADE, origin(RUN, UPLOAD, [MADE], volumes=before)),
        FoundVolume(OTHER, AT + timedelta(days=1), origin(RUN, UPLOAD, [MADE], volumes=after)),
        FoundVolume(EARLIER, AT, used[0]),
        volume(LATER, used[1], days=1),
    ]
    for some in (volumes, volumes[::-1]):
        assert made_into(found(*some))[MADE] == (OTHER, False)
    silent = [one for one in volumes if one.origin in ("", *used)]
    for some in (silent, silent[::-1]):
        assert found(*some).used == {MADE: OTHER}


def test_what_a_retry_has_discarded_is_no_upload_whatever_its_volume_is_called():
    old = origin(RUN, UPLOAD, [MADE], volumes={MADE: OTHER})
    new = origin(RUN, UPLOAD, [LATER], 2)
    volumes = [volume(UPLOAD), FoundVolume(OTHER, AT, old), volume(LATER, new)]
    for some in (volumes, volumes[::-1]):
        assert list(found(*some).uploads()) == [UPLOAD]


def test_a_run_that_is_left_out_leaves_its_data_under_their_ids():
    again = origin(NEXT, UPLOAD, [LATER], hashed=RUN.replace("-", ""), at="2026-02-01T00:00:00Z")
    first = origin(RUN, UPLOAD, [MADE], volumes={MADE: OTHER})
    remains = found(volume(UPLOAD), FoundVolume(OTHER, AT, first), volume(LATER, again))
    assert remains.uploads()[MADE] == OTHER


def test_rows_say_what_is_gone_and_whose_a_volume_is():
    adopted = origin(RUN, UPLOAD, [MADE, LOG], inputs=[[0, UPLOAD, "/srv/others"]])
    remains = found(volume(MADE, adopted))
    lineage = lineage_of(remains, remains.uploads())
    assert {one["knit_id"]: (one["owned"], one["is_gone"]) for one in lineage.data} == {
        UPLOAD: (False, False), MADE: (True, False), LOG: (True, True),
    }  # fmt: skip
    assert {one["run_id"] for one in lineage.runs} == {RUN, UPLOAD}
    assert lineage_of(remains, remains.uploads()).edges == [
        {"run_id": RUN, "position": 0, "knit_id": UPLOAD}
    ]
