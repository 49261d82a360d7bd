"""Rearranges a command line so that Typer reads it as knit's contract, and bash, mean it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

_COMMON_WITH_VALUE = ("--profile", "--profile-store", "--env")
_COMMON_SWITCHES = ("--quiet",)
_SAYS_YES = ("true", "on", "yes", "1")
_SAYS_NO = ("false", "off", "no", "0")
BASH_PREFIX = "KNIT_COMPLETE_PREFIX"
"""Variable with what bash has split off the word that is being completed."""

_SHORT_WITH_EQUALS = re.compile(r"(-[A-Za-z])=(.*)", re.DOTALL)


def normalize_arguments(arguments: Sequence[str]) -> list[str]:
    """Gives the same command line with the common flags in front and `-n=VALUE` as `-n VALUE`.

    The contract takes the common flags anywhere on the line. What follows `--` is left alone.
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
            # A missing value is left to Typer, which says so.
            common += [word, *islice(words, 1)]
        elif match := _SHORT_WITH_EQUALS.fullmatch(word):
            rest += [match[1], match[2]]
        else:
            rest.append(word)
    return common + rest


def normalize_switches(words: Sequence[str], switches: Mapping[str, str | None]) -> list[str]:
    """Gives the words of a command with its switches bare, turned round, or left out.

    The contract takes `--fail`, `--fail yes` and `--fail=no`; any other next word is none of the
    switch's. What follows `--` is left alone, and so is a value that is neither yes nor no.

    Args:
        words: what follows the command's name.
        switches: each with the one that says the opposite; None: leaving it out says so.
    """
    wait_until_settled: list[str] = []
    ahead = iter([*words, None])
    word = next(ahead)
    while word is not None:
        if word == "--":
            wait_until_settled += [word, *(rest for rest in ahead if rest is not None)]
            break
        following = next(ahead)
        name, equals, value = word.partition("=")
        if name not in switches or (equals and _said(value) is None):
            wait_until_settled.append(word)
        elif equals:
            wait_until_settled += _bare(name, switches[name], _said(value))
        elif following is not None and _said(following) is not None:
            wait_until_settled += _bare(name, switches[name], _said(following))
            following = next(ahead)
        else:
            wait_until_settled.append(word)
        word = following
    return wait_until_settled


def _bare(name: str, opposite: str | None, said: bool | None) -> list[str]:
    return [name] if said else [opposite] if opposite else []


def _said(value: str) -> bool | None:
    value = value.lower()
    return True if value in _SAYS_YES else False if value in _SAYS_NO else None


def join_bash_words(words: Sequence[str], current: int) -> tuple[list[str], str]:
    """Gives the words up to the one that is being completed, and what is before it in its word.

    Bash takes a colon for the end of a word, `type:da` for three words; it replaces only the last.
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
