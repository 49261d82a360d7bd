"""The file of the extra APIs: paths of the Web API that other services serve.

What is wrong with it is said by place, with what to do.
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.yaml_lines import Document, NotYaml, RepeatedKey, Unfit, line_of, only_texts

OWN_PATHS: Final = frozenset({"api", "healthz", "readyz", ".well-known"})
"""First segments of the Web API's own paths; neither they nor anything below is ever forwarded."""

MAX_BYTES: Final = 1 << 20
_MAX_FAULTS: Final = 10
_KEYS: Final = ("path", "proxy_to")
_SHAPE: Final = "the file has the key endpoints, a list of {path: /NAME, proxy_to: http://HOST/…}"


class ExtraApisRefused(Exception):
    """The file of the extra APIs cannot be used; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class ExtraApi:
    """What is at `path` and below is served by what is at `proxy_to` and below."""

    path: str
    proxy_to: str


def read_extra_apis(file: Path) -> tuple[ExtraApi, ...]:
    """Reads and checks a file; see `parse_extra_apis`."""
    return parse_extra_apis(content_of(file), str(file))


def content_of(file: Path) -> bytes:
    """Gives the content, cut a little above MAX_BYTES; raises ExtraApisRefused."""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        reason = reason_of(error).removesuffix(f": {file}")
        raise ExtraApisRefused(f"{file} cannot be read: {reason}; {advice_for(error)}") from error


def parse_extra_apis(content: bytes, source: str) -> tuple[ExtraApi, ...]:
    """Checks the content of a file, which messages call `source`; an empty one has no extra APIs.

    Raises:
        ExtraApisRefused: with all that is wrong.
    """
    document = _document(content, source)
    entries = document.get("endpoints") or []
    if not isinstance(entries, list):
        raise ExtraApisRefused(f"{source}: endpoints: not a list: {_SHAPE}")
    faults = [*_unknown("", document, ("endpoints",)), *_faults_of(entries)]
    if faults:
        more = [f"and {len(faults) - _MAX_FAULTS} more"] if len(faults) > _MAX_FAULTS else []
        raise ExtraApisRefused(f"{source}: {'; '.join([*faults[:_MAX_FAULTS], *more])}")
    return tuple(ExtraApi(one["path"], one["proxy_to"]) for one in entries)


def _document(content: bytes, source: str) -> dict[Any, Any]:
    if len(content) > MAX_BYTES:
        raise ExtraApisRefused(
            f"{source} is larger than {MAX_BYTES >> 20} MiB: is it the right one?"
        )
    try:
        document = Document(content.decode("utf-8-sig"), only_texts).content
    except RepeatedKey as twice:
        place = f"{source}, line {line_of(twice.mark)}"
        raise ExtraApisRefused(f"{place}: the key {twice.location[-1]} is there twice") from twice
    except (NotYaml, Unfit, UnicodeDecodeError) as error:
        raise ExtraApisRefused(f"{source} is not YAML in UTF-8: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ExtraApisRefused(f"{source} is not a mapping: {_SHAPE}")
    return document


def _faults_of(entries: list[Any]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for number, entry in enumerate(entries):
        place = f"endpoints[{number}]"
        if not isinstance(entry, dict):
            yield f"{place}: not a mapping: write path: /NAME and proxy_to: http://HOST/…"
            continue
        yield from _unknown(f"{place}.", entry, _KEYS)
        for key, check in (("path", _path_fault), ("proxy_to", _url_fault)):
            value = entry.get(key)
            fault = check(value) if isinstance(value, str) else "missing, or not text"
            if fault:
                yield f"{place}.{key}: {fault}"
        path = entry.get("path")
        if isinstance(path, str):
            if path in seen:
                yield f"{place}.path: {path} is that of {seen[path]} too: give each its own"
            seen.setdefault(path, place)


def _unknown(prefix: str, found: Mapping[Any, Any], known: tuple[str, ...]) -> Iterator[str]:
    for key in found:
        if key not in known:
            [near] = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            yield f"{prefix}{key}: not a key of this file, {near} is the nearest"


def _path_fault(path: str) -> str | None:
    if not path.startswith("/"):
        return f"{path!r} is not absolute: write /{path}"
    if re.search(r"[?#%\\\x00-\x20\x7f]", path):
        return f"{path!r} has a character that no path may have here (space ? # % \\)"
    clean = posixpath.normpath(f"/{path.lstrip('/')}")
    if path != clean:
        return f"{path!r} is not clean (dots, double or trailing slashes): write {clean}"
    first = path.split("/")[1]
    if first in OWN_PATHS:
        return f"{path} is taken: /{first} and all below is knit's own"
    return None


def _url_fault(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{url!r} is not a URL: {error}"
    if parts.scheme not in ("http", "https") or not host:
        return f"{url!r} is not an absolute URL with a host, such as http://importer:8000/v1"
    if "@" in parts.netloc:  # not repeated: it may be a secret
        return "a URL with a user or a password: let the service get its secrets in another way"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return f"{url!r} has a query or a fragment: those of each request are forwarded"
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        return f"{url!r} has a space or a character that is not ASCII: encode it"
    return None
