"""What is said where no sandbox can be started: why, and the command that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_workflows.provision.sandbox import install_advice, sandbox_problem
from tests.unit.provision.conftest import Stand


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "sudo apt-get install bubblewrap"),
        ("dnf", "sudo dnf install bubblewrap"),
        ("pacman", "sudo pacman -S bubblewrap"),
    ],
)
def test_a_missing_bubblewrap_comes_with_the_command_of_this_system(
    tmp_path: Path, stand_in: Stand, monkeypatch: pytest.MonkeyPatch, manager: str, command: str
) -> None:
    stand_in(manager, "")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert sandbox_problem() == f"bubblewrap is not installed; install it: {command}"


def test_without_a_known_package_manager_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert install_advice("bubblewrap") == "install the package bubblewrap"


def test_one_that_cannot_start_says_its_own_reason(stand_in: Stand) -> None:
    stand_in("bwrap", "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1")
    problem = sandbox_problem()
    assert problem is not None
    assert "(bwrap: setting up uid map: Permission denied)" in problem
    assert "Docker or Podman" in problem


def test_one_that_is_no_program_is_told(stand_in: Stand) -> None:
    stand_in("bwrap", "").write_text("#!/no/such/shell\n")
    assert sandbox_problem() is not None
    assert "bubblewrap does not start: " in (sandbox_problem() or "")


def test_one_that_starts_is_no_problem(stand_in: Stand) -> None:
    stand_in("bwrap", "exit 0")
    assert sandbox_problem() is None
