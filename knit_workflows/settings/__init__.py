"""Settings of knit's processes, read once from the environment (`KNIT_…`) and passed on.

How to reach Temporal is not among them: see `temporal_client`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from knit_workflows.log import LogFormat
from knit_workflows.settings.api import AccountSettings, ExtraApisSettings
from knit_workflows.settings.compute import ComputeSettings, KubernetesSettings, LocalSettings
from knit_workflows.settings.engine import (
    EngineSettings,
    HookSettings,
    QueueSettings,
    StoreSettings,
    VersioningSettings,
)

__all__ = [
    "AccountSettings",
    "ComputeSettings",
    "EngineSettings",
    "ExtraApisSettings",
    "HookSettings",
    "KubernetesSettings",
    "LocalSettings",
    "QueueSettings",
    "Settings",
    "SettingsRefused",
    "StoreSettings",
    "VersioningSettings",
    "path_variables",
    "read_settings",
]

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_PREFIX: Final = "KNIT_"
_DELIMITER: Final = "__"
_DRAINING: Final = f"{_PREFIX}VERSIONING{_DELIMITER}DRAINING"
_SECRET: Final = re.compile("URL|SHA256")
"""Variables whose value is not shown."""


class Settings(BaseSettings):
    """All settings of a process; two underscores lead into a group: `KNIT_STORE__URL`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, frozen=True, extra="ignore"
    )

    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    compute: ComputeSettings = ComputeSettings()
    queues: QueueSettings = QueueSettings()
    versioning: VersioningSettings = VersioningSettings()
    hooks: HookSettings = HookSettings()
    accounts: AccountSettings = Field(default_factory=AccountSettings)
    extra_apis: ExtraApisSettings = ExtraApisSettings()
    log_format: LogFormat = "auto"
    log_level: LogLevel = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, text: object) -> object:
        return text.upper() if isinstance(text, str) else text


class SettingsRefused(Exception):
    """An environment variable has an unknown name or an invalid value; the message says which."""


def read_settings() -> Settings:
    """Reads the environment.

    A worker that drains has the settings of a newer installation, and leaves out what it does not
    know of.

    Raises:
        SettingsRefused: a variable is invalid, or unknown though it has the prefix of a group of
            settings.
    """
    try:
        return Settings()
    except ValidationError as error:
        unknown = _unknown(error)
        if unknown and os.environ.get(_DRAINING):
            for variable in unknown:
                del os.environ[variable]
            return read_settings()
        faults = [_fault(one) for one in error.errors(include_url=False)]
    except SettingsError as error:
        faults = [f"{error}: set its parts as {_PREFIX}GROUP{_DELIMITER}NAME, or all as JSON"]
    advice = "correct it or remove it; docs/reference/settings.md lists all settings"
    raise SettingsRefused(f"{'; '.join(faults)}; {advice}") from None


def _unknown(error: ValidationError) -> list[str]:
    """Gives the variables that are there and are no settings."""
    named = {_variable(one) for one in error.errors() if one["type"] == "extra_forbidden"}
    return [one for one in os.environ if one.upper() in named]


def _variable(error: ErrorDetails) -> str:
    value = error["input"]
    parts = [str(part) for part in error["loc"]]
    while error["type"] == "extra_forbidden" and isinstance(value, dict) and value:
        part, value = next(iter(value.items()))  # the unknown group of a variable
        parts.append(part)
    return _PREFIX + _DELIMITER.join(parts).upper()


def _fault(error: ErrorDetails) -> str:
    """Names the variable and its value, but never the value of one that may hold a secret."""
    value = error["input"]
    variable = _variable(error)
    if error["type"] == "extra_forbidden":
        known = (name for name, _ in _variables(_PREFIX, Settings))
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0)
        return f"{variable} is not a setting of knit, {near[0]} is the nearest"
    shown = f" is {value!r}" if isinstance(value, str) and not _SECRET.search(variable) else ""
    if error["type"] == "time_delta_parsing":
        return f"{variable}{shown}: write a length of time like PT20S, PT0S or 00:00:20"
    return f"{variable}{shown}: {error['msg'].removeprefix('Value error, ')}"


def path_variables() -> frozenset[str]:
    """Gives the environment variables whose value is a path, relative to a process's folder."""
    paths = (Path, Path | None)
    return frozenset(name for name, kind in _variables(_PREFIX, Settings) if kind in paths)


def _variables(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Gives the environment variables of a settings class and of its groups, each with its type."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(f"{variable}{_DELIMITER}", field.annotation)
        else:
            yield variable, field.annotation
