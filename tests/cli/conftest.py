"""`knit` as users start it, but in process and with the real API behind the transport seam."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knit_cli.config.profile import Profile, save_profile
from knit_cli.invocation import Surroundings
from knit_cli.main import run
from tests.cli.real_api import API_ROOT, Bridge, RealApi, running_bridge


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

    def __init__(self, api: RealApi, folder: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self.api = api
        self.cwd = folder / "project"
        self.home = folder / "home"
        self.cwd.mkdir()
        self.home.mkdir()
        self.variables = {"PATH": ""}
        self.slept: list[float] = []
        self.opened: list[str] = []
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
            open_browser=self._open_browser,
        )
        self._capture.readouterr()
        code = run(arguments, surroundings)
        out, err = self._capture.readouterr()
        return Ended(code, out, err.decode())

    def _open_browser(self, url: str) -> bool:
        self.opened.append(url)
        return True

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


@pytest.fixture(scope="session")
def bridge() -> Iterator[Bridge]:
    """Made when a test first asks the API: the app takes a quarter of a second."""
    with running_bridge() as bridge:
        yield bridge


@pytest.fixture
def api(request: pytest.FixtureRequest, tmp_path: Path) -> RealApi:
    return RealApi(lambda: request.getfixturevalue("bridge"), tmp_path / "volumes")


@pytest.fixture
def bare_knit(api: RealApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Knit:
    """Without a profile."""
    return Knit(api, tmp_path, capsysbinary)


@pytest.fixture
def knit(bare_knit: Knit) -> Knit:
    bare_knit.use_profile()
    return bare_knit
