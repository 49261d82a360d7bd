"""Errors for Data, Plans and Runs that do not exist, with advice on how to find one."""

from __future__ import annotations

from datetime import datetime

from knit_workflows.domain.errors import DataNotFound, PlanNotFound, RunNotFound


def missing_plan(plan_id: str) -> PlanNotFound:
    """Makes the error for an unknown Plan; built-in ones count as unknown to users."""
    return PlanNotFound(
        f"there is no Plan {plan_id} of yours",
        advice="look for it with: knit plan find",
        see=plan_id,
    )


def missing_data(knit_id: str) -> DataNotFound:
    """Makes the error for an unknown Data."""
    return DataNotFound(
        f"there is no Data {knit_id}", advice="look for it with: knit data find", see=knit_id
    )


def purged_data(knit_id: str, at: datetime) -> DataNotFound:
    """Makes the error for a Data whose content is wanted, but was purged."""
    return DataNotFound(
        f"the content of the Data {knit_id} was purged on {at:%Y-%m-%d}: only its tags and its "
        "lineage are left",
        advice="see what it was made of, and make it again: knit data lineage",
        see=knit_id,
    )


def missing_run(run_id: str) -> RunNotFound:
    """Makes the error for an unknown Run."""
    return RunNotFound(
        f"there is no Run {run_id}", advice="look for it with: knit run find", see=run_id
    )
