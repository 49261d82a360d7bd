"""apt's locks: another installation that holds one is waited for; any other failure is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from knit_workflows.provision.cache import SetUpError
from tests.unit.provision.conftest import Stand

# A program beside the other tools, which are no package.
sys.path.append(str(Path(__file__).parents[3] / "tools"))

import debian_packages

LISTS = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
MORE = "E: Unable to lock directory /var/lib/apt/lists/"


def apt(**limits: float) -> bool:
    return debian_packages.apt("update", look_every=0.01, **limits)


def test_a_lock_is_waited_for_with_one_line(
    stand_in: Stand, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    count = tmp_path / "count"
    stand_in(
        "apt-get",
        f'echo x >> {count}; [ "$(wc -l < {count})" -gt 3 ] && exit 0\n'
        f"echo '{LISTS}' >&2; echo '{MORE}' >&2; exit 100",
    )
    assert apt() is True
    assert count.read_text() == "x\n" * 4
    assert capfd.readouterr().err == (
        "apt is busy: /var/lib/apt/lists/lock. It is held by process 7 (apt-get) "
        "Waiting up to 15 min ...\n"
    )


def test_a_lock_that_is_never_released_ends_in_words(stand_in: Stand) -> None:
    stand_in("apt-get", f"echo '{LISTS}' >&2; exit 100")
    with pytest.raises(SetUpError, match=r"still busy .* process 7 \(apt-get\) Wait until"):
        apt(patience=0.05)


def test_any_other_failure_is_reported_at_once(
    stand_in: Stand, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_in("apt-get", "echo 'E: Unable to locate package nonsense' >&2; exit 100")
    assert apt() is False
    assert capfd.readouterr().err == "E: Unable to locate package nonsense\n"


def test_apt_is_asked_in_a_language_that_is_understood(stand_in: Stand, tmp_path: Path) -> None:
    stand_in("apt-get", f'echo "$LC_ALL $DEBIAN_FRONTEND" > {tmp_path}/said')
    assert apt() is True
    assert (tmp_path / "said").read_text() == "C noninteractive\n"
