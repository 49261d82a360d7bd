"""Access to the volume of a transfer: what is asked of it, and where its endpoint leads."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from knit_api.server.streams import Chunks, Threads
from knit_api.transfers.local_volume import LocalVolume
from knit_api.transfers.upload_body import UploadBody
from knit_workflows.archive import Form, Span
from knit_workflows.domain import errors
from knit_workflows.domain.ports import TransferRecord

if TYPE_CHECKING:
    import httpx


class VolumeAccess(Protocol):
    """The volume of one open transfer."""

    async def put(self, body: UploadBody) -> None:
        """Unpacks a body into the empty volume: all of it, or nothing.

        Raises:
            InvalidArchive: it is damaged, or has a member that is refused.
            DataExists: the volume is not empty.
            StorageFull: it does not fit.
            BackendUnavailable: the volume cannot be reached or written.
            HttpProblem, ClientDisconnected: as `UploadBody` does.
        """

    async def clear(self) -> None:
        """Empties the volume; a second call does nothing."""

    def archive(self, form: Form) -> Chunks:
        """Gives the volume as plain tar."""

    def spans(self, form: Form) -> Generator[bytes | Span, None, None] | None:
        """Gives `archive` for a thread, large files as spans if they are on this host."""

    async def archive_bytes(self, form: Form) -> int:
        """Gives the size of that archive as the volume is now."""

    def content(self) -> Chunks:
        """Gives the content of all files, concatenated."""

    async def content_bytes(self) -> int:
        """Gives the size of that content now."""

    def followed(self) -> Chunks:
        """Gives the content of the log, then what is appended to it, without end.

        An empty chunk means that nothing is new for the moment; a few come per second.
        """


def open_volume(
    record: TransferRecord, threads: Threads, client: Callable[[], httpx.AsyncClient]
) -> VolumeAccess:
    """Gives access to the volume at the endpoint of a transfer; raises TransferNotReady.

    `client` gives the HTTP client for endpoints in pods.
    """
    if not record.endpoint:
        raise errors.TransferNotReady
    url = urlsplit(record.endpoint)
    if url.scheme == "file":
        return LocalVolume(Path(unquote(url.path)), threads)
    # Here, since its HTTP client takes 5 MiB: see `Agents`.
    from knit_api.transfers.remote_volume import RemoteVolume

    return RemoteVolume(record.endpoint.rstrip("/"), record.token, threads, client())
