"""The commands in a Markdown page, as words: those of its blocks and those in its sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import FENCE, commands

_INLINE = re.compile(r"`([^`]+)`")
_SEPARATORS = frozenset({"|", "||", "&&", ";", "&", ">", "<"})


def commands_of(page: Path, *programs: str) -> Iterator[list[str]]:
    """Gives the words of each command of these programs; a pipeline has several."""
    for line in _lines(page):
        words: list[str] = []
        for word in [*_words(line), ";"]:
            if word not in _SEPARATORS:
                words.append(word)
                continue
            if words and words[0] == "xargs":  # its own flags, then the command
                words = words[next((at for at, one in enumerate(words) if one in programs), 0) :]
                words.append("RUN_ID")
            if words and words[0] in programs:
                yield words
            words = []


def _lines(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for kind, block in FENCE.findall(_without_indent(text)):
        if kind == "console":
            yield from commands(block)
        elif kind == "sh":
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    sentences = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(code.split()) for code in _INLINE.findall(sentences))


def _without_indent(text: str) -> str:
    """Gives blocks within lists as blocks."""
    return re.sub(r"^ {3}", "", text, flags=re.MULTILINE)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # an apostrophe: it is prose
        return []
