"""The server on the wire: how it is, its version, and which of its features clients ask for."""

from __future__ import annotations

from knit_workflows.wire.base import Response


class Health(Response):
    """How each part the API needs is: `ok`, or what is the matter.

    `hooks` and `extra_apis` are there only while the newest file of that kind is refused, and say
    why; what was in force before stays, and the API is as ready as without it.
    """

    parts: dict[str, str]


class Version(Response):
    """The version of the server, and features that a client cannot detect by trying.

    `upload_keys`: a key sent with an upload makes it one Data, however often it is sent.
    `sparse_files`: an archive that is sent may hold files with holes, in any of GNU tar's formats.
    """

    version: str
    upload_keys: bool = False  # what an older server means by not saying it
    sparse_files: bool = False
