"""Which addresses hooks may reach: the guard against requests that a configuration did not mean.

Addresses are checked where connections are made: what is checked is what is connected to, and
nothing is resolved a second time, so that a name cannot change in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from knit_workflows.hooks.file import LOOPBACK, Allowed

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup: TypeAlias = Callable[[str, int], Sequence[str]]
"""Resolves a host name to addresses; blocks; raises OSError."""

_METADATA: Final = "the metadata service of a cloud"
_REFUSED: Final = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("169.254.169.254/32", _METADATA),
        ("100.100.100.200/32", _METADATA),  # Alibaba
        ("192.0.0.192/32", _METADATA),  # Oracle
        ("168.63.129.16/32", _METADATA),  # Azure
        ("fd00:ec2::254/128", _METADATA),  # Amazon
        ("fd20:ce::254/128", _METADATA),  # Google
        ("0.0.0.0/8", "an unspecified address"),
        ("::/128", "an unspecified address"),
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("224.0.0.0/4", "a multicast address"),
        ("ff00::/8", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        # IPv4 in IPv6 in a form that only the network itself knows (RFC 8215).
        ("64:ff9b:1::/48", "a translated address"),
    )
)
_LAST_32_BITS: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")  # NAT64, SIIT, IPv4-compatible
)
_ISATAP: Final = (0x00005EFE, 0x02005EFE)
_THREADS: Final = 8


class AddressRefused(OSError):
    """Hooks may not go to that address; the message says why, and how to allow it."""


class Guard:
    """Decides about addresses by what the hooks file allows, and whether loopback is."""

    def __init__(self, allowed: Allowed, *, allow_loopback: bool) -> None:
        self._allowed = allowed
        self._allow_loopback = allow_loopback

    def check(self, host: str, address: str) -> None:
        """Raises AddressRefused if a hook on `host` may not be reached at `address`."""
        forms = list(_forms(ipaddress.ip_address(address)))
        shown = f"{host} is at {address}" if host != address else host
        if not self._allow_loopback and any(_within(form, LOOPBACK) for form in forms):
            raise AddressRefused(
                f"{shown}, a loopback address: hooks may be on this machine only under `knit dev`, "
                "or with KNIT_HOOKS__ALLOW_LOOPBACK"
            )
        if host.lower().rstrip(".") in self._allowed.hosts:
            return
        if any(_within(form, self._allowed.networks) for form in forms):
            return
        for form in forms:
            for network, kind in _REFUSED:
                if form in network:
                    raise AddressRefused(
                        f"{shown}, {kind}: hooks may go there only if `allow` in the hooks file "
                        f"lists {address}, its network, or its host"
                    )

    def check_literal(self, host: str) -> None:
        """Does the same for a host that is an address itself; any other host passes."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return
        self.check(host, host)


def _forms(address: Address) -> Iterator[Address]:
    """Gives the address, and the IPv4 addresses to which it may be translated on its way."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    value = int(address)
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield address.teredo[1]
    is_own = value <= 1  # :: and ::1 stand for themselves
    if not is_own and (
        any(address in network for network in _LAST_32_BITS) or value >> 32 & 0xFFFFFFFF in _ISATAP
    ):
        yield ipaddress.IPv4Address(value & 0xFFFFFFFF)


def _within(
    address: Address, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    return any(address in network for network in networks)


def system_lookup(host: str, port: int) -> Sequence[str]:
    """Resolves a name as this machine does, to at least one address."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Names:
    """Resolves names in threads of its own; calls at the same time share one look-up of a name.

    So a name server that does not answer holds one thread per name, not one per call.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="knit-hook-names")
        self._under_way: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Gives the addresses of a host; raises OSError."""
        key = (host, port)
        shared = self._under_way.get(key)
        if shared is None:
            loop = asyncio.get_running_loop()
            shared = loop.run_in_executor(self._threads, self._lookup, host, port)
            self._under_way[key] = shared
            shared.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(shared)

    def _forget(self, key: tuple[str, int], done: asyncio.Future[Sequence[str]]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # nobody may be left to see it

    def close(self) -> None:
        """Ends the threads, without waiting for a look-up that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)
