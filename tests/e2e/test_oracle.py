"""Forty Data, twelve Plans, sixteen writers: every Run that must exist does, once, and no other."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e import oracle
from tests.e2e.stack import dev_stack

pytestmark = [pytest.mark.timeout(1500), pytest.mark.engine, pytest.mark.slow]


def test_the_oracle_counts_what_the_rules_mean() -> None:
    """By hand: two Data of either colour, and what is made of them."""
    known = {
        "a\n": frozenset({"colour:red"}),
        "b\n": frozenset({"colour:red"}),
        "c\n": frozenset({"colour:blue"}),
    }
    rules = [rule for rule in oracle.RULES if rule.name in ("red", "blue", "crossed", "third")]
    runs = oracle.expected(known, rules)
    assert len(runs) == 2 + 1 + 2 * 1 + 2
    assert runs["crossed", ("red\na\n", "blue\nc\n")] == "crossed\nred\na\nblue\nc\n"
    assert len(oracle.RULES) == 12
    assert len(oracle.uploads(8)) == 40


async def test_everybody_writes_at_once_and_the_runs_are_exact() -> None:
    with dev_stack() as stack:
        stack.up()
        root = f"{stack.status()['api']}/"
        async with httpx.AsyncClient(base_url=root, trust_env=False, timeout=180) as http:
            assert await oracle.consult(http) > 300
