"""Rewrites command lines so that Typer reads them as the contract, and bash, mean them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, islice

_COMMON_WITH_VALUE = ("--profile", "--profile-store", "--env")
_COMMON_SWITCHES = ("--quiet",)
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")
BASH_PREFIX = "KNIT_COMPLETE_PREFIX"
"""Variable with the part that bash has split off the word being completed."""

_SHORT_WITH_EQUALS = re.compile(r"(-[A-Za-z])=(.*)", re.DOTALL)


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """Moves the common flags to the front, where Typer expects them.

    The contract allows them anywhere on the line. Nothing after `--` is changed.
    """
    common: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name = word.partition("=")[0]
        if word == "--":
            rest += [word, *words]
        elif word in _COMMON_SWITCHES or (name in _COMMON_WITH_VALUE and name != word):
            common.append(word)
        elif word in _COMMON_WITH_VALUE:
            # Typer complains about a missing value.
            common += [word, *islice(words, 1)]
        else:
            rest.append(word)
    return common + rest


def split_short_values(words: Sequence[str]) -> list[str]:
    """Splits `-n=VALUE` into `-n VALUE`; nothing after `--`."""
    at = list(words).index("--") if "--" in words else len(words)
    matches = ((word, _SHORT_WITH_EQUALS.fullmatch(word)) for word in words[:at])
    split = [match.groups() if match else (word,) for word, match in matches]
    return [*chain.from_iterable(split), *words[at:]]


def normalize_switches(words: Sequence[str], switches: Mapping[str, str | None]) -> list[str]:
    """Replaces switches with values by bare switches, their opposites, or nothing.

    The contract allows `--fail`, `--fail yes` and `--fail=no`; any other next word does not belong
    to the switch. Nothing after `--` is changed, nor a value that is neither yes nor no.

    Args:
        words: what follows the command's name.
        switches: each with its opposite; None: leaving it out is the opposite.
    """
    wait_until_normalized: list[str] = []
    upcoming = iter([*words, None])
    word = next(upcoming)
    while word is not None:
        if word == "--":
            wait_until_normalized += [word, *(rest for rest in upcoming if rest is not None)]
            break
        following = next(upcoming)
        name, equals, value = word.partition("=")
        if name not in switches or (equals and _truth_of(value) is None):
            wait_until_normalized.append(word)
        elif equals:
            wait_until_normalized += _bare(name, switches[name], _truth_of(value))
        elif following is not None and _truth_of(following) is not None:
            wait_until_normalized += _bare(name, switches[name], _truth_of(following))
            following = next(upcoming)
        else:
            wait_until_normalized.append(word)
        word = following
    return wait_until_normalized


def _bare(name: str, opposite: str | None, truth: bool | None) -> list[str]:
    return [name] if truth else [opposite] if opposite else []


def _truth_of(value: str) -> bool | None:
    value = value.lower()
    return True if value in _TRUE else False if value in _FALSE else None


def join_bash_words(words: Sequence[str], current: int) -> tuple[list[str], str]:
    """Rejoins words up to the one being completed; returns them and the part bash has split off.

    Bash ends words at colons: `type:da` is three words to it, and it replaces only the last.
    """
    joined: list[str] = []
    split_off = ""
    after_colon = False
    for word in words[: current + 1]:
        is_colon = bool(word) and not word.strip(":")
        if len(joined) > 1 and (is_colon or after_colon):
            joined[-1] += word
            head, colon, _ = joined[-1].rpartition(":")
            split_off = head + colon
        else:
            joined.append(word)
            split_off = ""
        after_colon = is_colon
    if split_off:
        joined[-1] = joined[-1].removeprefix(split_off)
    return joined, split_off
