"""Rearranges a command line so that Typer reads it as knit's contract does."""

import re
from collections.abc import Sequence
from itertools import islice

_COMMON_WITH_VALUE = ("--profile", "--profile-store", "--env")
_COMMON_SWITCHES = ("--quiet",)
_SHORT_WITH_EQUALS = re.compile(r"(-[A-Za-z])=(.*)", re.DOTALL)


def arrange(arguments: Sequence[str]) -> list[str]:
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
