"""A client of knit's Web API: one method per request, wire types in and out, errors of our tree.

Sending and repeating requests is the task of `requests`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from datetime import datetime
from typing import Self, TypeVar
from urllib.parse import unquote
from uuid import UUID

import httpx

from knit_cli.api.accounts import AccountsClient
from knit_cli.api.addresses import segment, window
from knit_cli.api.archive_transport import ArchiveTransport
from knit_cli.api.authorization import ApiAuth, Credentials, NoCredentials
from knit_cli.api.hooks import HooksClient
from knit_cli.api.idempotent_upload import (
    KEY_HEADER,
    MAY_HAVE_ARRIVED,
    IdempotentUpload,
    UploadedBody,
)
from knit_cli.api.proxies import Proxy
from knit_cli.api.requests import TRANSFER_TIMEOUT, Requests
from knit_cli.api.retry import ATTEMPTS, Retry
from knit_cli.api.streamed_response import StreamedResponse
from knit_cli.errors import ApiRefused, ApiUnreachable, ConnectionCut
from knit_cli.version import version
from knit_workflows import tracing
from knit_workflows.archive.zstd import CODING
from knit_workflows.http1.proxies import is_this_machine
from knit_workflows.wire.adoption import AdoptedVolume, AdoptRequest
from knit_workflows.wire.base import Request, to_wire
from knit_workflows.wire.completions import Completion
from knit_workflows.wire.data import Data, PurgedData
from knit_workflows.wire.lineage import Lineage
from knit_workflows.wire.options import OptionsChange
from knit_workflows.wire.plans import (
    CONFIRM,
    AnnotationsChange,
    Plan,
    PlanPreview,
    PlanSpec,
    PlanTrial,
    PriorityChange,
    ResourcesChange,
    ServiceAccountChange,
)
from knit_workflows.wire.runs import Run, RunEvent, RunTiming
from knit_workflows.wire.situation import InstallationStatus
from knit_workflows.wire.tags import Tag, TagChange

T = TypeVar("T")

PLAIN_TAR = "application/x-tar"
GZIPPED_TAR = "application/tar+gzip"

KEPT_VOLUME = "Kept-Volume"

# Servers and proxies are likely to refuse a longer query.
MAX_QUERY_BYTES = 16 * 1024


class ApiClient:
    """A synchronous client of one API; a context manager that closes its connections.

    Every method raises ApiUnreachable, ApiRefused (4xx) or ApiBroken. Reads are repeated for about
    ten seconds while the API is unavailable. Reads and idempotent changes are sent up to three
    times when the connection breaks. Thread-safe.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.hooks = HooksClient(requests)
        self.accounts = AccountsClient(requests)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._requests.close()

    @property
    def is_on_this_machine(self) -> bool:
        """Whether requests go to a loopback address, as far as the profile tells."""
        return is_this_machine(httpx.URL(self._requests.root).host)

    def retry_on_cut(
        self, attempt: Callable[[], T], *, repeatable: bool, attempts: int = ATTEMPTS
    ) -> T:
        """Runs a transfer, restarting it after a dropped connection; see `Retry.on_cut`."""
        return self._requests.retry.on_cut(attempt, repeatable=repeatable, attempts=attempts)

    def pause(self, seconds: float) -> None:
        """Waits, as between two attempts."""
        self._requests.retry.wait(seconds)

    # ------------------------------------------------------------ Data

    def find_data(
        self,
        tags: Iterable[Tag] = (),
        since: datetime | None = None,
        duration: str | None = None,
    ) -> list[Data]:
        """Gives the Data that carry all the tags, oldest first, Data without a time last.

        Of more than a page, one that is finished meanwhile may be missing.
        """
        query = [("tag", str(tag)) for tag in tags] + window(since, duration)
        pages = self._requests.read_pages("/data", query, list[Data], "cannot find Data")
        return _as_last_seen((one.knit_id, one) for page in pages for one in page)

    def lineage(self, knit_id: str, hops: Mapping[str, int | None]) -> Lineage:
        """Gives the Data and Runs around a Data, nearest first.

        Args:
            knit_id: where to start.
            hops: how many Runs to follow `upstream` and `downstream` (None: all); at least one.
        """
        query = [(way, "all" if far is None else str(far)) for way, far in hops.items()]
        path, failure = f"/data/{segment(knit_id)}/lineage", f"cannot trace {knit_id}"
        return self._requests.read(path, query, Lineage, failure)

    def status(self) -> InstallationStatus:
        """Gives what runs, waits and fails, and what needs attention."""
        return self._requests.read("/status", (), InstallationStatus, "cannot show the status")

    def completions(self, noun: str, prefix: str, *, limit: int) -> list[Completion]:
        """Gives what starts with the prefix, newest first.

        Args:
            noun: `data`, `runs`, `plans`, `tags` or `keys`.
            prefix: the beginning of the id, tag or key.
            limit: the most to return.
        """
        query = [("of", noun), ("prefix", prefix), ("limit", str(limit))]
        return self._requests.read("/completions", query, list[Completion], "cannot complete")

    def upload(
        self, pack: Callable[[], Generator[bytes, None, None]], tags: Sequence[Tag] = ()
    ) -> Data:
        """Uploads a tar archive while it is packed; the Data has these tags or does not exist.

        If the connection breaks, `pack` is called again and the upload repeated under an
        idempotency key, so there is one Data in the end. An error raised by `pack` aborts the
        upload and propagates. A second call creates a second Data.
        """
        return IdempotentUpload(
            lambda key: self._upload(pack, tags, key), self._requests.retry
        ).run()

    def _upload(
        self, pack: Callable[[], Generator[bytes, None, None]], tags: Sequence[Tag], key: UUID
    ) -> Data:
        with closing(pack()) as chunks:
            body = UploadedBody(chunks)
            try:
                return self._requests.once(
                    "POST",
                    "/data",
                    Data,
                    "cannot push",
                    params=_tag_query(tags),
                    content=body.chunks(),
                    headers={"Content-Type": PLAIN_TAR, KEY_HEADER: str(key)},
                    timeout=TRANSFER_TIMEOUT,
                )
            except ApiUnreachable as cause:
                if body.ended:
                    cause.advice = MAY_HAVE_ARRIVED
                elif isinstance(cause, ConnectionCut):
                    cause.safe_to_retry = True
                raise

    @staticmethod
    def tags_fit_in_upload(tags: Sequence[Tag]) -> bool:
        """Tells whether the tags are short enough in all to travel with the upload."""
        return len(str(_tag_query(tags))) <= MAX_QUERY_BYTES

    def change_tags(self, knit_id: str, change: TagChange) -> Data:
        """Removes, then adds tags; idempotent."""
        return self._requests.change(
            "PUT", f"/data/{segment(knit_id)}", Data, f"cannot tag {knit_id}", to_wire(change)
        )

    def adopt(self, request: AdoptRequest) -> list[AdoptedVolume]:
        """Makes volumes Data, or says what would become of them; idempotent."""
        return self._requests.retry.on_cut(
            lambda: self._requests.once(
                "POST",
                "/adoptions",
                list[AdoptedVolume],
                "cannot adopt",
                json=to_wire(request),
                timeout=TRANSFER_TIMEOUT,
            ),
            repeatable=True,
        )

    def purge(self, knit_id: str, *, dry_run: bool = False) -> PurgedData:
        """Discards the content of a Data, or says what would go; idempotent."""
        return self._requests.repeated(
            "POST",
            f"/data/{segment(knit_id)}/purge",
            PurgedData,
            f"cannot purge {knit_id}",
            params={"dry_run": "true"} if dry_run else {},
        )

    def download(
        self, knit_id: str, accept: str, *, compressed: bool = False
    ) -> AbstractContextManager[StreamedResponse]:
        """Opens the archive of a Data, in a media type of the `Accept` header.

        With `compressed` it may have the coding that the response names.
        """
        coding = f"{CODING}, identity;q=0.5" if compressed else "identity"
        headers = {"Accept": accept, "Accept-Encoding": coding}
        return self._requests.stream(
            f"/data/{segment(knit_id)}",
            {},
            f"cannot pull {knit_id}",
            headers=headers,
        )

    # ------------------------------------------------------------ Plans

    def find_plans(
        self,
        active: bool | None = None,
        image: str | None = None,
        in_tags: Iterable[Tag] = (),
        out_tags: Iterable[Tag] = (),
    ) -> list[Plan]:
        """Finds Plans, by id; in-tags must all be on one input, out-tags on one output or log."""
        query = [("in_tag", str(tag)) for tag in in_tags]
        query += [("out_tag", str(tag)) for tag in out_tags]
        if active is not None:
            query.append(("active", "true" if active else "false"))
        if image is not None:
            query.append(("image", image))
        pages = self._requests.read_pages("/plans", query, list[Plan], "cannot find Plans")
        return [one for page in pages for one in page]

    def get_plan(self, plan_id: str) -> Plan:
        """Gives the Plan."""
        return self._requests.read(
            f"/plans/{segment(plan_id)}", (), Plan, f"cannot show Plan {plan_id}"
        )

    def register_plan(self, spec: PlanSpec, *, confirmed: bool = False) -> Plan:
        """Registers a new Plan.

        Raises:
            ApiRefused: 409, with the id of an equivalent Plan in `see`; or, unless `confirmed`,
                with CONFIRM in `see` if it would create very many Runs at once.
        """
        path = f"/plans?{CONFIRM}" if confirmed else "/plans"
        return self._requests.change("POST", path, Plan, "cannot register the Plan", to_wire(spec))

    def preview_plan(self, spec: PlanSpec) -> PlanPreview:
        """Gives the Runs that a Plan would create; never refused because they are many."""
        failure = "the Plan cannot be registered"
        return self._requests.change(
            "POST", "/plans?dry_run=true", PlanPreview, failure, to_wire(spec)
        )

    def try_plan(self, spec: PlanSpec) -> PlanTrial:
        """Gives what the back-end would refuse of a Plan's Runs; registers and starts nothing."""
        failure = "the Plan cannot be tried"
        return self._requests.change("POST", "/trials", PlanTrial, failure, to_wire(spec))

    def activate_plan(self, plan_id: str, active: bool) -> Plan:
        """Allows or forbids waiting Runs of the Plan to start; idempotent."""
        method = "PUT" if active else "DELETE"
        failure = f"cannot {'activate' if active else 'deactivate'} Plan {plan_id}"
        return self._requests.change(method, f"/plans/{segment(plan_id)}/active", Plan, failure)

    def change_resources(self, plan_id: str, change: ResourcesChange) -> Plan:
        """Unsets, then sets resources of later Runs; idempotent."""
        return self._change_plan(plan_id, "resources", "resources", change)

    def change_annotations(self, plan_id: str, change: AnnotationsChange) -> Plan:
        """Removes, then adds annotations; idempotent."""
        return self._change_plan(plan_id, "annotations", "annotations", change)

    def set_service_account(self, plan_id: str, name: str | None) -> Plan:
        """Sets the service account of later Runs, or removes it; idempotent."""
        change = None if name is None else ServiceAccountChange(service_account=name)
        return self._change_plan(plan_id, "serviceaccount", "service account", change)

    def set_priority(self, plan_id: str, priority: int) -> Plan:
        """Sets the priority of the Plan's Runs; idempotent."""
        return self._change_plan(plan_id, "priority", "priority", PriorityChange(priority=priority))

    def set_options(self, plan_id: str, change: OptionsChange) -> Plan:
        """Replaces the options of run pods and volumes of later Runs; idempotent."""
        return self._change_plan(plan_id, "options", "options", change)

    def _change_plan(self, plan_id: str, part: str, name: str, change: Request | None) -> Plan:
        return self._requests.change(
            "DELETE" if change is None else "PUT",
            f"/plans/{segment(plan_id)}/{part}",
            Plan,
            f"cannot change the {name} of Plan {plan_id}",
            None if change is None else to_wire(change),
        )

    # ------------------------------------------------------------ Runs

    def find_runs(
        self,
        plans: Sequence[str] = (),
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        statuses: Sequence[str] = (),
        since: datetime | None = None,
        duration: str | None = None,
    ) -> list[Run]:
        """Gives the Runs, least recently changed first; a Run matches one value of each list.

        Of more than a page, one that changes meanwhile is given once, as it was seen last.
        """
        lists = {
            "plan": plans,
            "knitIdInput": inputs,
            "knitIdOutput": outputs,
            "status": statuses,
        }
        query = [(name, ",".join(values)) for name, values in lists.items() if values]
        query += window(since, duration)
        pages = self._requests.read_pages("/runs", query, list[Run], "cannot find Runs")
        return _as_last_seen((one.run_id, one) for page in pages for one in page)

    def get_run(self, run_id: str) -> Run:
        """Gives the Run."""
        return self._requests.read(f"/runs/{segment(run_id)}", (), Run, f"cannot show Run {run_id}")

    def open_log(
        self, run_id: str, *, follow: bool, offset: int = 0
    ) -> AbstractContextManager[StreamedResponse]:
        """Opens the log of a Run after its first `offset` bytes.

        The response ends with what exists now, or with `follow` when the container ends.
        """
        query = {"follow": "true"} if follow else {}
        if offset:
            query["offset"] = str(offset)
        return self._requests.stream(
            f"/runs/{segment(run_id)}/log",
            query,
            f"cannot show the log of Run {run_id}",
            headers={"Accept": "application/octet-stream", "Accept-Encoding": "identity"},
            # Without `follow`, say at once that the Run has not started.
            retrying=follow,
        )

    def stop_run(self, run_id: str, *, fail: bool) -> Run:
        """Requests that the Run end, as failed or as done; returns before it has."""
        path = f"/runs/{segment(run_id)}/{'abort' if fail else 'tearoff'}"
        return self._requests.change("PUT", path, Run, f"cannot stop Run {run_id}")

    def retry_run(self, run_id: str) -> None:
        """Retries a finished Run; its outputs are discarded.

        Not repeated after a lost response: the Run may have finished again in the meantime.
        """
        path, failure = f"/runs/{segment(run_id)}/retry", f"cannot retry Run {run_id}"
        self._requests.retry.on_cut(
            lambda: self._requests.send("PUT", path, failure), repeatable=False
        )

    def delete_run(self, run_id: str) -> list[str]:
        """Deletes a Run and its outputs; an unknown id is refused.

        Gives the volumes that stay, because they were only adopted (nothing if the response that
        named them was lost).
        """
        cut_before = False

        def attempt() -> list[str]:
            nonlocal cut_before
            path, failure = f"/runs/{segment(run_id)}", f"cannot delete Run {run_id}"
            try:
                headers = self._requests.send("DELETE", path, failure)
            except ConnectionCut as cut:
                cut_before = cut_before or not cut.safe_to_retry
                raise
            except ApiRefused as refused:
                # After a cut, the first attempt deleted it and only its response was lost.
                if not (cut_before and refused.status == httpx.codes.NOT_FOUND):
                    raise
                return []
            return [unquote(one) for one in headers.get_list(KEPT_VOLUME)]

        return self._requests.retry.on_cut(attempt, repeatable=True)

    def run_events(self, run_id: str) -> list[RunEvent]:
        """Gives every change of the Run's status, oldest first."""
        path = f"/runs/{segment(run_id)}/events"
        return self._requests.read(
            path, (), list[RunEvent], f"cannot show the history of Run {run_id}"
        )

    def run_timing(self, run_id: str) -> RunTiming:
        """Gives where the time of the Run's newest execution went."""
        path = f"/runs/{segment(run_id)}/timing"
        return self._requests.read(path, (), RunTiming, f"cannot show the timing of Run {run_id}")


def open_api(
    api_root: str,
    *,
    where: str,
    verify: ssl.SSLContext | None,
    proxy: Proxy | None = None,
    credentials: Credentials | None = None,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None],
    notify: Callable[[str], None],
) -> ApiClient:
    """Creates a client of the API at that root; sends nothing yet.

    Args:
        api_root: absolute URL, such as `http://127.0.0.1:8080/api`.
        where: names the file with the address, for messages.
        verify: the TLS context; None: no part of the connection is under TLS.
        proxy: the proxy to use, if any.
        credentials: authenticate requests; None: there are none.
        transport: replaces the network.
        sleep: waits for so many seconds.
        notify: shows the user a line about a delay.
    """
    # An empty context costs nothing; loading the system's certificates takes 0.1 s.
    trust = verify or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    http = httpx.Client(
        base_url=api_root,
        verify=trust,
        transport=transport or _transport(trust, proxy),
        auth=ApiAuth(credentials or NoCredentials()),
        headers={"User-Agent": f"knit/{version()}"},
        trust_env=False,  # the environment was read by `proxies` and `tls`
    )
    if tracing.is_on():
        # Threads of a pool know of no span; their requests are the command's all the same.
        inherited = tracing.headers()
        http.event_hooks["request"].append(
            lambda one: one.headers.update(tracing.headers() or inherited)
        )
    return ApiClient(Requests(http, where=where, retry=Retry(sleep, notify), proxy=proxy))


def _transport(trust: ssl.SSLContext, proxy: Proxy | None) -> httpx.BaseTransport:
    if proxy is not None:
        return httpx.HTTPTransport(verify=trust, proxy=proxy.for_httpx(trust))
    return ArchiveTransport(httpx.HTTPTransport(verify=trust), trust)


def _as_last_seen(items: Iterable[tuple[str, T]]) -> list[T]:
    """Gives each item once, by its id: the last one of it, in the place of that."""
    seen: dict[str, T] = {}
    for name, item in items:
        seen.pop(name, None)
        seen[name] = item
    return list(seen.values())


def _tag_query(tags: Iterable[Tag]) -> httpx.QueryParams:
    return httpx.QueryParams([("tag", str(tag)) for tag in tags])
