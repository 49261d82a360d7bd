"""Settings come from the environment, once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from knit_workflows.settings import Settings


def test_nested_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two underscores lead into a group; durations are ISO 8601."""
    monkeypatch.setenv("KNIT_ENGINE__HEARTBEAT", "PT2S")
    monkeypatch.setenv("KNIT_COMPUTE__KIND", "memory")
    monkeypatch.setenv("KNIT_QUEUES__COMPUTE", "mine")
    settings = Settings()
    assert settings.engine.heartbeat == timedelta(seconds=2)
    assert settings.compute.kind == "memory"
    assert settings.queues.compute == "mine"
    assert settings.queues.watch == "knit-watch"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database password never reaches a log by printing the settings."""
    monkeypatch.setenv("KNIT_STORE__URL", "postgresql://knit:sesame@db/knit")
    assert "sesame" not in repr(Settings())


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, with the setting's name."""
    monkeypatch.setenv("KNIT_ENGINE__PAGE_SIZE", "0")
    with pytest.raises(ValidationError, match="page_size"):
        Settings()
