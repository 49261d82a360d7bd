"""Errors that say that there is no such Data, Plan or Run, and how to look for one."""

from __future__ import annotations

from knit_workflows.domain.errors import DataNotFound, PlanNotFound, RunNotFound


def missing_plan(plan_id: str) -> PlanNotFound:
    """Makes the error that says so; built-in Plans are not there for their users."""
    return PlanNotFound(
        f"there is no Plan {plan_id} of yours",
        advice="look for it with: knit plan find",
        see=plan_id,
    )


def missing_data(knit_id: str) -> DataNotFound:
    """Makes the error that says so."""
    return DataNotFound(
        f"there is no Data {knit_id}", advice="look for it with: knit data find", see=knit_id
    )


def missing_run(run_id: str) -> RunNotFound:
    """Makes the error that says so."""
    return RunNotFound(
        f"there is no Run {run_id}", advice="look for it with: knit run find", see=run_id
    )
