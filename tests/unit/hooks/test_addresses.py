"""Which addresses hooks may reach, and that nothing else is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.hooks.addresses import AddressRefused, Guard, Names, system_lookup
from knit_workflows.hooks.exchange import Resolver
from knit_workflows.hooks.file import Allowed
from tests.waiting import until

STRICT = Guard(Allowed(), allow_loopback=False)
DEV = Guard(Allowed(), allow_loopback=True)


def kind_of(address: str, guard: Guard = STRICT) -> str:
    """The kind of address for which it is refused, or nothing."""
    try:
        guard.check("hook.example", address)
    except AddressRefused as refused:
        said = str(refused)
        assert said.startswith(f"hook.example is at {address}, ")
        return said.partition(", ")[2].partition(":")[0]
    return ""


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("a loopback address", "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 "
         "2002:7f00:1:: ::127.0.0.1 fe80::5efe:7f00:1 ::ffff:0:127.0.0.1 "
         "2001:0:4136:e378:8000:63bf:80ff:fffe"),
        ("the metadata service of a cloud", "169.254.169.254 ::ffff:169.254.169.254 "
         "64:ff9b::a9fe:a9fe 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 "
         "fd20:ce::254 2002:a9fe:a9fe::1"),
        ("a link-local address", "169.254.0.1 169.254.170.2 fe80::1 fe80::1%eth0 "
         "::ffff:169.254.170.2"),
        ("a site-local address", "fec0::1"),
        ("a multicast address", "224.0.0.1 239.255.255.255 ff02::1 ::ffff:224.0.0.1"),
        ("an unspecified address", "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0 64:ff9b::"),
        ("a reserved address", "240.0.0.1 255.255.255.255"),
        ("a translated address", "64:ff9b:1::a9fe:a9fe"),
        ("", "10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 8.8.8.8 fd00::1 2001:db8::1 "
         "::ffff:10.0.0.1 64:ff9b::a00:1 1.0.0.0"),
    ],
)  # fmt: skip
def test_kinds_of_addresses(kind: str, addresses: str) -> None:
    assert {address: kind_of(address) for address in addresses.split()} == dict.fromkeys(
        addresses.split(), kind
    )


def test_loopback_is_allowed_by_the_setting_alone() -> None:
    everything = Allowed(
        (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")),
        frozenset({"hook.example"}),
    )
    guard = Guard(everything, allow_loopback=False)
    assert kind_of("127.0.0.1", guard) == kind_of("::1", guard) == "a loopback address"
    assert (
        kind_of("127.0.0.1", DEV) == kind_of("::1", DEV) == kind_of("::ffff:127.0.0.1", DEV) == ""
    )
    assert kind_of("169.254.169.254", DEV) == "the metadata service of a cloud"


def test_what_the_file_allows_is_allowed() -> None:
    by_network = Guard(
        Allowed((ipaddress.ip_network("169.254.7.0/24"), ipaddress.ip_network("fe80::/64"))),
        allow_loopback=False,
    )
    assert kind_of("169.254.7.9", by_network) == kind_of("fe80::1", by_network) == ""
    assert kind_of("::ffff:169.254.7.9", by_network) == ""
    assert kind_of("169.254.8.9", by_network) == "a link-local address"
    by_host = Guard(Allowed(hosts=frozenset({"hook.example"})), allow_loopback=False)
    assert kind_of("169.254.169.254", by_host) == ""
    by_host.check("HOOK.example.", "169.254.169.254")
    with pytest.raises(AddressRefused):
        by_host.check("other.example", "169.254.169.254")


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_all_its_ipv6_forms(
    address: ipaddress.IPv4Address,
) -> None:
    plain, number = kind_of(str(address)), int(address)
    for prefix in (0xFFFF << 32, 0x64_FF9B << 96, 0xFFFF << 48):
        assert kind_of(str(ipaddress.IPv6Address(prefix | number))) == plain
    assert kind_of(str(ipaddress.IPv6Address(0x2002 << 112 | number << 80))) == plain


@given(st.ip_addresses())
def test_every_address_is_judged(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_loopback or address.is_link_local or address.is_multicast:
        assert kind_of(str(address))


def test_literals_are_checked_and_names_are_not() -> None:
    for literal in ("169.254.169.254", "fe80::1", "::1"):
        with pytest.raises(AddressRefused):
            STRICT.check_literal(literal)
    STRICT.check_literal("hook.example")
    STRICT.check_literal("10.0.0.1")


async def test_one_bad_address_refuses_the_name() -> None:
    names = Names(lambda host, port: ["10.0.0.1", "169.254.169.254"])
    with pytest.raises(AddressRefused, match=r"hook\.example is at 169\.254\.169\.254"):
        await Resolver(names, STRICT.check).resolve("hook.example", 80)
    names.close()


async def test_what_is_resolved_is_what_was_checked() -> None:
    names = Names(lambda host, port: ["10.0.0.1", "fd00::1"])
    found = await Resolver(names, STRICT.check).resolve("hook.example", 8080)
    assert [(one["host"], one["port"], one["family"]) for one in found] == [
        ("10.0.0.1", 8080, socket.AF_INET),
        ("fd00::1", 8080, socket.AF_INET6),
    ]
    names.close()


async def test_calls_at_the_same_time_share_a_look_up_and_later_ones_do_not() -> None:
    going_on, asked = threading.Event(), []

    def lookup(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        going_on.wait()
        return ["10.0.0.1"]

    names = Names(lookup)
    try:
        calls = [asyncio.create_task(names.addresses("hook.example", 80)) for _ in range(50)]
        await until(lambda: asked)
        calls[0].cancel()  # a call that ends takes nothing from the others
        going_on.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [["10.0.0.1"]] * 49
        assert asked == ["hook.example"]
        await names.addresses("hook.example", 80)
        assert len(asked) == 2
    finally:
        going_on.set()
        names.close()


async def test_a_name_that_hangs_does_not_hold_up_another() -> None:
    going_on = threading.Event()

    def lookup(host: str, port: int) -> Sequence[str]:
        if host == "slow.example":
            going_on.wait()
        return ["10.0.0.1"]

    names = Names(lookup)
    try:
        slow = [asyncio.create_task(names.addresses("slow.example", 80)) for _ in range(1000)]
        assert await names.addresses("fast.example", 80) == ["10.0.0.1"]
        assert not any(one.done() for one in slow)
    finally:
        going_on.set()
        await asyncio.gather(*slow)
        names.close()


def test_this_machine_knows_its_own_name() -> None:
    assert set(system_lookup("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"known|associated"):
        system_lookup("name.invalid", 80)
