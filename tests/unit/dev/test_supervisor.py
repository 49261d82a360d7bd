"""What the supervisor refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_cli.dev.state import StateFolder
from knit_cli.dev.supervisor import Supervisor
from knit_cli.errors import BadInput


def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its processes fail of it one after another."""
    monkeypatch.setenv("KNIT_COMPUTE__LOCAL__FLOOR", "much")
    with pytest.raises(BadInput) as refused:
        Supervisor(StateFolder(tmp_path), {})
    assert "KNIT_COMPUTE__LOCAL__FLOOR" in refused.value.summary
    assert "'much'" in (refused.value.reason or "")
