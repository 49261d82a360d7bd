"""Completions on the wire."""

from knit_api.schemas.wire import Response


class Completion(Response):
    """An id, a tag or the key of one, and a few words about it; empty: none."""

    value: str
    words: str
