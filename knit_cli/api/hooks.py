"""The part of the client that is about hooks."""

from __future__ import annotations

from datetime import datetime

from knit_cli.api.addresses import segment, window
from knit_cli.api.requests import Requests
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.hooks.deliveries import (
    HookDelivery,
    Hooks,
    HookSkip,
    HookTestAnswer,
    HookTestRequest,
)


class HooksClient:
    """Hooks and their deliveries; errors are those of `ApiClient`."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def in_force(self) -> Hooks:
        """Gives the hooks in force."""
        return self._requests.read("/hooks", (), Hooks, "cannot show the hooks")

    def deliveries(
        self,
        run_id: str | None = None,
        *,
        failed: bool = False,
        since: datetime | None = None,
        limit: int,
    ) -> tuple[list[HookDelivery], bool]:
        """Gives deliveries to hooks, those called last first; and whether there are more.

        Args:
            run_id: only those for this Run.
            failed: only those that have neither succeeded nor been skipped.
            since: only those whose last call is not older.
            limit: the most to return, 1 to 1000.
        """
        query = [("run", run_id)] if run_id is not None else []
        query += [("failed", "true")] if failed else []
        query += [*window(since), ("limit", str(limit))]
        path, failure = "/hooks/deliveries", "cannot find deliveries"
        return self._requests.read_page(path, query, list[HookDelivery], failure)

    def skip(self, delivery_id: str, skip: HookSkip) -> HookDelivery:
        """Lets a Run go on without a hook that has not agreed; idempotent."""
        path = f"/hooks/deliveries/{segment(delivery_id)}/skip"
        failure = f"cannot skip {delivery_id}"
        return self._requests.retry.on_cut(
            lambda: self._requests.once("POST", path, HookDelivery, failure, json=to_wire(skip)),
            repeatable=True,
        )

    def test(self, url: str) -> HookTestAnswer:
        """Sends the body of a sample Run to a hook in force; not repeated after a lost response."""
        body = to_wire(HookTestRequest(url=url))
        return self._requests.change(
            "POST", "/hooks/test", HookTestAnswer, f"cannot test {url}", body
        )
