"""Speaks knit's Web API: one method per request, wire types in and out, errors of our tree."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from knit_api.schemas.data import Data
from knit_api.schemas.plans import Plan, PlanSpec
from knit_api.schemas.runs import Run
from knit_api.schemas.tags import Tag, TagChange
from knit_api.schemas.wire import to_wire
from knit_cli.answers import network_errors, parsed, refuse_unless_ok
from knit_cli.retry import Retry
from knit_cli.version import version

T = TypeVar("T")
Query = Sequence[tuple[str, str]]

PLAIN_TAR = "application/x-tar"
GZIPPED_TAR = "application/tar+gzip"

# Beyond this a query is likely to be refused by a server or a proxy on the way.
MOST_QUERY_BYTES = 16 * 1024

# Archives are handed on in large pieces: fewer changes between threads. A log is not.
_ARCHIVE_CHUNK_BYTES = 512 * 1024

_PATIENCE = httpx.Timeout(60.0, connect=10.0)
# A transfer may have to wait for a pod, and the answer to an upload for all to be stored.
_TRANSFER_PATIENCE = httpx.Timeout(60.0, connect=10.0, read=600.0)
# A log that is followed may be silent for as long as the Run is.
_ENDLESS = httpx.Timeout(60.0, connect=10.0, read=None)

_DATA = TypeAdapter(Data)
_DATA_LIST = TypeAdapter(list[Data])
_PLAN = TypeAdapter(Plan)
_PLAN_LIST = TypeAdapter(list[Plan])
_RUN = TypeAdapter(Run)
_RUN_LIST = TypeAdapter(list[Run])


@dataclass(frozen=True)
class Stream:
    """A body that is being received: its media type without parameters, and its chunks, once."""

    media_type: str
    chunks: Iterator[bytes]


class ApiClient:
    """A synchronous client of one API; a context manager that closes its connections.

    Every method raises ApiUnreachable, ApiRefused (4xx) or ApiBroken. Requests that only read are
    tried again for about ten seconds while the API answers 503. May be used by several threads.

    Args:
        http: carries the requests; its base URL is the profile's `apiRoot`.
        where: names the file the address comes from, for messages.
        retry: how to wait while the API answers 503.
    """

    def __init__(self, http: httpx.Client, *, where: str, retry: Retry) -> None:
        self._http = http
        self._where = where
        self._retry = retry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    # ------------------------------------------------------------ Data

    def find_data(
        self, tags: Iterable[Tag] = (), since: datetime | None = None, duration: str | None = None
    ) -> list[Data]:
        """Gives the Data that carry all the tags, oldest first, Data without a time last."""
        query = [("tag", str(tag)) for tag in tags] + _window(since, duration)
        return self._read("/data", query, _DATA_LIST, "cannot find Data")

    def get_data(self, knit_id: str) -> Data | None:
        """Gives the Data of that id, or None."""
        found = self.find_data([Tag(key="knit#id", value=knit_id)])
        return found[0] if found else None

    def upload(self, content: Iterable[bytes], media_type: str, tags: Sequence[Tag] = ()) -> Data:
        """Sends an archive as it is produced; the Data exists with these tags, or not at all.

        What `content` raises cuts the connection, so that the server drops the upload, and passes.
        Not repeated: the second call makes a second Data.
        """
        with self._talking():
            answer = self._http.post(
                "/data",
                params=_tag_query(tags),
                content=_chunked(content),
                headers={"Content-Type": media_type},
                timeout=_TRANSFER_PATIENCE,
            )
        return self._parsed(answer, _DATA, "cannot push")

    @staticmethod
    def tags_fit_in_upload(tags: Sequence[Tag]) -> bool:
        """Tells whether the tags are few and short enough to travel with the upload."""
        return len(str(_tag_query(tags))) <= MOST_QUERY_BYTES

    def change_tags(self, knit_id: str, change: TagChange) -> Data:
        """Removes, then adds tags. The second call changes nothing more."""
        return self._change(
            "PUT", f"/data/{_id(knit_id)}", _DATA, f"cannot tag {knit_id}", to_wire(change)
        )

    def download(self, knit_id: str, accept: str) -> AbstractContextManager[Stream]:
        """Opens the archive of a Data, in one of the accepted media types."""
        # A transport encoding on top would hide where the archive ends.
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        return self._stream(
            f"/data/{_id(knit_id)}",
            {},
            f"cannot pull {knit_id}",
            headers=headers,
            timeout=_TRANSFER_PATIENCE,
            chunk_bytes=_ARCHIVE_CHUNK_BYTES,
        )

    # ------------------------------------------------------------ Plans

    def find_plans(
        self,
        active: bool | None = None,
        image: str | None = None,
        in_tags: Iterable[Tag] = (),
        out_tags: Iterable[Tag] = (),
    ) -> list[Plan]:
        """Gives the Plans by id: in-tags all on one input, out-tags all on one output or log."""
        query = [("in_tag", str(tag)) for tag in in_tags]
        query += [("out_tag", str(tag)) for tag in out_tags]
        if active is not None:
            query.append(("active", "true" if active else "false"))
        if image is not None:
            query.append(("image", image))
        return self._read("/plans", query, _PLAN_LIST, "cannot find Plans")

    def get_plan(self, plan_id: str) -> Plan:
        """Gives the Plan."""
        return self._read(f"/plans/{_id(plan_id)}", (), _PLAN, f"cannot show Plan {plan_id}")

    def register_plan(self, spec: PlanSpec) -> Plan:
        """Registers a new Plan; an equivalent one is refused with 409 and its id in `see`."""
        return self._change("POST", "/plans", _PLAN, "cannot register the Plan", to_wire(spec))

    def activate_plan(self, plan_id: str, active: bool) -> Plan:
        """Lets waiting Runs of the Plan start, or not. The second call changes nothing more."""
        method = "PUT" if active else "DELETE"
        failing = f"cannot {'activate' if active else 'deactivate'} Plan {plan_id}"
        return self._change(method, f"/plans/{_id(plan_id)}/active", _PLAN, failing)

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
        """Gives the Runs, oldest change first: values of one kind are OR-ed, kinds are AND-ed."""
        lists = {
            "plan": plans,
            "knitIdInput": inputs,
            "knitIdOutput": outputs,
            "status": statuses,
        }
        query = [(name, ",".join(values)) for name, values in lists.items() if values]
        return self._read("/runs", query + _window(since, duration), _RUN_LIST, "cannot find Runs")

    def get_run(self, run_id: str) -> Run:
        """Gives the Run."""
        return self._read(f"/runs/{_id(run_id)}", (), _RUN, f"cannot show Run {run_id}")

    def open_log(self, run_id: str, *, follow: bool) -> AbstractContextManager[Stream]:
        """Opens the log of a Run: what there is, or with `follow` until the container ends."""
        return self._stream(
            f"/runs/{_id(run_id)}/log",
            {"follow": "true"} if follow else {},
            f"cannot show the log of Run {run_id}",
            headers={"Accept-Encoding": "identity"},
            timeout=_ENDLESS,
            # Somebody who only looks is told at once that the Run has not started.
            patient=follow,
        )

    def stop_run(self, run_id: str, *, fail: bool) -> Run:
        """Asks the Run to end, as failed or as done; it ends later."""
        path = f"/runs/{_id(run_id)}/{'abort' if fail else 'tearoff'}"
        return self._change("PUT", path, _RUN, f"cannot stop Run {run_id}")

    # ------------------------------------------------------------ requests

    def _talking(self) -> AbstractContextManager[None]:
        return network_errors(str(self._http.base_url).rstrip("/"), self._where)

    def _read(self, path: str, query: Query, shape: TypeAdapter[T], failing: str) -> T:
        with self._talking():
            answer = self._retry.on_unavailable(
                lambda: self._http.get(path, params=list(query), timeout=_PATIENCE)
            )
        return self._parsed(answer, shape, failing)

    def _change(
        self, method: str, path: str, shape: TypeAdapter[T], failing: str, body: Any = None
    ) -> T:
        with self._talking():
            answer = self._http.request(method, path, json=body, timeout=_PATIENCE)
        return self._parsed(answer, shape, failing)

    def _parsed(self, answer: httpx.Response, shape: TypeAdapter[T], failing: str) -> T:
        refuse_unless_ok(answer, failing)
        return parsed(answer, shape, failing)

    @contextmanager
    def _stream(
        self,
        path: str,
        query: Mapping[str, str],
        failing: str,
        *,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
        patient: bool = True,
        chunk_bytes: int | None = None,
    ) -> Iterator[Stream]:
        def ask() -> httpx.Response:
            request = self._http.build_request(
                "GET", path, params=query, headers=headers, timeout=timeout
            )
            return self._http.send(request, stream=True)

        with self._talking():
            answer = self._retry.on_unavailable(ask) if patient else ask()
            try:
                if answer.is_error or answer.is_redirect:
                    answer.read()
                refuse_unless_ok(answer, failing)
                media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                yield Stream(media_type.lower(), answer.iter_raw(chunk_bytes))
            finally:
                answer.close()


def open_api(
    api_root: str,
    *,
    where: str,
    verify: Any = True,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None],
    notify: Callable[[str], None],
) -> ApiClient:
    """Gives a client of the API at that root.

    Args:
        api_root: absolute URL, such as `http://127.0.0.1:8080/api`.
        where: the file the address comes from, for messages.
        verify: an `ssl.SSLContext`, or True for the usual trust.
        transport: replaces the network.
        sleep: waits so many seconds.
        notify: tells the user, in a line, that something takes longer.
    """
    http = httpx.Client(
        base_url=api_root,
        verify=verify,
        transport=transport,
        headers={"User-Agent": f"knit/{version()}"},
        # No proxy can reach this machine's own API, whatever HTTP_PROXY says.
        trust_env=httpx.URL(api_root).host not in ("localhost", "127.0.0.1", "::1"),
    )
    return ApiClient(http, where=where, retry=Retry(sleep, notify))


def _id(text: str) -> str:
    # An id is one path segment, whatever the user typed: `..` must not become another address.
    return quote(text, safe="").replace(".", "%2E")


def _window(since: datetime | None, duration: str | None) -> list[tuple[str, str]]:
    query = []
    if since is not None:
        query.append(("since", since.isoformat()))
    if duration is not None:
        query.append(("duration", duration))
    return query


def _tag_query(tags: Iterable[Tag]) -> httpx.QueryParams:
    return httpx.QueryParams([("tag", str(tag)) for tag in tags])


def _chunked(content: Iterable[bytes]) -> Iterator[bytes]:
    # httpx would send bytes or a list with a Content-Length; an iterator goes out chunked.
    yield from content
