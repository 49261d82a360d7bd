"""What the supervisor refuses before it starts anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knit_cli.dev import supervisor
from knit_cli.dev.dev_folder import DevFolder, Ports
from knit_cli.dev.services import environment_of
from knit_cli.dev.supervisor import Supervisor
from knit_cli.errors import BadInput


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "KNIT_COMPUTE__LOCAL__MIN_FREE_BYTES",
            "much",
            "KNIT_COMPUTE__LOCAL__MIN_FREE_BYTES is 'much'",
        ),
        ("KNIT_STORE__POOL_SIZE", "0", "KNIT_STORE__POOL_SIZE is '0'"),
        ("KNIT_COMPUTE", "no JSON", "KNIT_GROUP__NAME"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """Before its processes fail of it one after another, and in the words they would use."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput) as refused:
        Supervisor(DevFolder(tmp_path), {})
    assert told in (refused.value.reason or "")
    assert "docs/reference/settings.md" in (refused.value.reason or "")


def test_variables_of_libpq_do_not_reach_the_embedded_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the user's for another one; neither the stack nor its supervisor has them."""
    folder = DevFolder(tmp_path)
    for name in ("PGCHANNELBINDING", "PGSERVICE", "PGHOSTADDR", "PGOPTIONS", "PGPORT"):
        monkeypatch.setenv(name, "theirs")
    made = environment_of(folder, Ports(1, 2, 3), "url", {})
    assert not [name for name in made if name.startswith("PG")]

    def is_missing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(supervisor, "require_temporal", is_missing)
    with pytest.raises(ZeroDivisionError):
        Supervisor(folder, {}).run(lambda: True)
    assert not [name for name in os.environ if name.startswith("PG")]
