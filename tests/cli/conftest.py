"""`knit` as users start it, but in process and with a fake API behind the transport seam."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knit_cli.config.profile import Profile, save_profile
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from tests.cli.fake_api import API_ROOT, FakeApi


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Knit:
    """Starts `knit` in a folder of its own, with a home and a profile."""

    def __init__(self, api: FakeApi, folder: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self.api = api
        self.cwd = folder / "project"
        self.home = folder / "home"
        self.cwd.mkdir()
        self.home.mkdir()
        self.variables = {"PATH": ""}
        self.slept: list[float] = []
        self._capture = capture

    @property
    def store(self) -> Path:
        return self.home / ".knit" / "profile"

    def use_profile(self, api_root: str = API_ROOT) -> None:
        save_profile(Profile(api_root), store=self.store, name=str(self.cwd))

    def __call__(self, *arguments: str, cwd: Path | None = None) -> Ended:
        surroundings = Surroundings(
            cwd=cwd or self.cwd,
            home=self.home,
            variables=self.variables,
            transport=self.api.transport(),
            sleep=self.slept.append,
        )
        self._capture.readouterr()
        code = run(arguments, surroundings)
        out, err = self._capture.readouterr()
        return Ended(code, out, err.decode())

    def slept_for(self, *steps: float) -> bool:
        """Whether the pauses were these, or at least half of each: the rest is chance."""
        return len(self.slept) == len(steps) and all(
            step / 2 <= pause <= step for pause, step in zip(self.slept, steps, strict=True)
        )

    def write(self, name: str, content: str | bytes = "") -> Path:
        path = self.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def bare_knit(api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Knit:
    """Without a profile."""
    return Knit(api, tmp_path, capsysbinary)


@pytest.fixture
def knit(bare_knit: Knit) -> Knit:
    bare_knit.use_profile()
    return bare_knit
