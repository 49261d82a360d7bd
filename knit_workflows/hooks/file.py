"""The hooks file: which URLs are told of transitions, and how.

```yaml
lifecycle-hooks:
  before: [https://gate.example.com/runs]   # asked in this order
  after: [https://chat.example.com/runs]    # told, each by itself
```
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from yaml.nodes import Node

from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.hooks import Hooks
from knit_workflows.hooks.document import Faults, HooksRefused, entries, root_of, texts
from knit_workflows.hooks.urls import host_fault, url_fault
from knit_workflows.yaml_lines import text_of

log = logging.getLogger(__name__)

HookFormat: TypeAlias = Literal["json", "cloudevents"]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

KEYS: Final = {
    "lifecycle-hooks": "",
    "lifecycle-hooks.before": "List of URLs that are asked before a transition, in this order; "
    "the transition waits until all of them have agreed.",
    "lifecycle-hooks.after": "List of URLs that are told once a transition is made, each by itself "
    "and at most once.",
    "format": "How a call is written: `json` (the default), or `cloudevents` for CloudEvents 1.0 "
    "in structured mode.",
    "allow": "List of networks (CIDR), addresses and host names that hooks may reach although "
    "their addresses are refused otherwise: link-local, cloud metadata, multicast, reserved.",
}
"""The keys of the file, with what each means."""
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_NOTHING: Final = Path(os.devnull)
_POLL: Final = timedelta(seconds=1)
_MAX_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Allowed:
    """Addresses that hooks may reach although they are refused otherwise; hosts in lower case."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HooksFile:
    """What a hooks file says. An empty file means no hooks.

    `digest` is the SHA-256 of its content in hex, and no part of what it says.
    """

    hooks: Hooks = field(default_factory=Hooks)
    format: HookFormat = "json"
    allow: Allowed = field(default_factory=Allowed)
    digest: str = field(default="", compare=False)


def read_hooks_file(path: Path) -> HooksFile:
    """Reads and checks a hooks file.

    Raises:
        HooksRefused: it cannot be read, or is not a valid hooks file; says why, and on which line.
    """
    content = _content(path)
    if isinstance(content, HooksRefused):
        raise content
    return parse_hooks_file(content, str(path))


def parse_hooks_file(content: bytes, source: str) -> HooksFile:
    """Checks the content of a hooks file; `source` is how messages name it.

    Raises:
        HooksRefused: see `read_hooks_file`.
    """
    faults = Faults(source)
    top = entries(root_of(content, source), "", [key for key in KEYS if "." not in key], faults)
    lists = entries(top.get("lifecycle-hooks"), "lifecycle-hooks", ("before", "after"), faults)
    before, after = (
        _urls(lists.get(name), f"lifecycle-hooks.{name}", faults) for name in ("before", "after")
    )
    result = HooksFile(
        Hooks(before, after),
        _format(top.get("format"), faults),
        _allowed(top.get("allow"), faults),
        hashlib.sha256(content).hexdigest(),
    )
    faults.raise_if_any()
    return result


def _urls(node: Node | None, place: str, faults: Faults) -> tuple[str, ...]:
    lines: dict[str, int] = {}
    for item, here, url in texts(node, place, faults):
        if fault := url_fault(url):
            faults.add(item, f"{here}: {fault}")
        elif url in lines:
            faults.add(item, f"{here}: {url} is already in this list, on line {lines[url]}")
        else:
            lines[url] = item.start_mark.line + 1
    return tuple(lines)


def _format(node: Node | None, faults: Faults) -> HookFormat:
    if node is None:
        return "json"
    text = text_of(node)
    for known in get_args(HookFormat):
        if text == known:
            found: HookFormat = known
            return found
    faults.add(node, f"format is neither {' nor '.join(get_args(HookFormat))}")
    return "json"


def _allowed(node: Node | None, faults: Faults) -> Allowed:
    networks: list[Network] = []
    hosts: set[str] = set()
    for item, here, text in texts(node, "allow", faults):
        network = _network(text)
        if network is None:
            if fault := host_fault(text):
                faults.add(item, f"{here}: {fault}, nor a network such as 10.0.0.0/8")
            hosts.add(text.lower().rstrip("."))
        elif any(network.version == one.version and network.subnet_of(one) for one in LOOPBACK):  # type: ignore[arg-type]
            faults.add(
                item,
                f"{here}: {text} is this machine, which only KNIT_HOOKS__ALLOW_LOOPBACK allows",
            )
        else:
            networks.append(network)
    return Allowed(tuple(networks), frozenset(hosts))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None


# ---------------------------------------------------------------- changes of the file

Apply: TypeAlias = Callable[[HooksFile], Awaitable[None]]
Refuse: TypeAlias = Callable[[str], Awaitable[None]]


async def follow(path: Path, apply: Apply, refuse: Refuse, *, every: timedelta = _POLL) -> None:
    """Applies the file at once, then whenever its content has changed, for ever.

    A bad or missing file is given to `refuse`, once per content; what was applied stays in force.
    Looks at the content, so that it does not matter how the file is replaced, and waits until two
    looks in a row have found the same, so that a file is not applied while it is being written.
    What raises a KnitError is tried again at the next look.
    """
    follower = Follower(path, apply, refuse)
    await follower.begin()
    await follower.go_on(every)


class Follower:
    """One look after the other at a hooks file; see `follow`."""

    def __init__(self, path: Path, apply: Apply, refuse: Refuse) -> None:
        self._path = path
        self._apply = apply
        self._refuse = refuse
        self._seen: bytes | HooksRefused | None = None
        self._is_handled = False
        self._is_failing = False

    async def begin(self) -> None:
        """Handles what is there now, settled or not."""
        self._seen = await asyncio.to_thread(_content, self._path)
        await self._handle(self._seen)

    async def go_on(self, every: timedelta = _POLL) -> None:
        """Looks again and again, for ever."""
        while True:
            await asyncio.sleep(every.total_seconds())
            await self.look()

    async def look(self) -> None:
        """Handles a content that is new, and the same as at the last look."""
        now = await asyncio.to_thread(_content, self._path)
        if not _is_same(now, self._seen):
            self._seen, self._is_handled = now, False
        elif not self._is_handled:
            await self._handle(now)

    async def _handle(self, content: bytes | HooksRefused) -> None:
        try:
            try:
                if isinstance(content, HooksRefused):
                    raise content
                file = await asyncio.to_thread(parse_hooks_file, content, str(self._path))
            except HooksRefused as refused:
                await self._refuse(str(refused))
            else:
                await self._apply(file)
        except KnitError as error:
            if not self._is_failing:
                log.warning(
                    "hooks file cannot be applied yet: %s",
                    error.reason,
                    extra={"action": "hooks_delayed"},
                )
            self._is_failing = True
        else:
            self._is_handled, self._is_failing = True, False


def _content(path: Path) -> bytes | HooksRefused:
    try:
        # Anything else than a file might keep its reader waiting; but nothing is an empty file.
        if not stat.S_ISREG(path.stat().st_mode) and path != _NOTHING:
            return HooksRefused(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as cause:
        return HooksRefused(f"{path} cannot be read: {cause.strerror}")
    if len(content) > _MAX_BYTES:
        return HooksRefused(f"{path} is larger than {_MAX_BYTES >> 10} KiB")
    return content


def _is_same(one: bytes | HooksRefused | None, other: bytes | HooksRefused | None) -> bool:
    if isinstance(one, HooksRefused) and isinstance(other, HooksRefused):
        return str(one) == str(other)
    return one == other
