"""What PostgreSQL asks of the machine, told before it does."""

from __future__ import annotations

import os

import pytest

from knit_cli.dev.prerequisites import require_named_user
from knit_cli.errors import CliError

pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")


def test_a_user_without_a_name_is_told_so(monkeypatch):
    """As in a container that is run with a number of its own."""
    require_named_user()
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999_999)
    with pytest.raises(CliError) as refused:
        require_named_user()
    assert "3999999999" in refused.value.reason
    assert "/etc/passwd" in refused.value.advice
