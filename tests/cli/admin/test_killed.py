"""`knit admin renew-certs` and `uninstall`, killed outright at every call and every file."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.tls import files as tls_files
from knit_cli.admin.tls.certificates import new_authority, new_server
from tests.cli.admin.conftest import Admin
from tests.cli.admin.test_after_install import fill, names

pytestmark = pytest.mark.patient  # each starts `knit`, and the stand-ins, many times


def killed(admin: Admin, *arguments: str) -> Iterator[int]:
    """Kills a command after its first call, then after its second, until it ends by itself."""
    for number in range(1, 100):
        admin.tools.forget()
        admin.tools.say("kill-after", str(number))
        done = subprocess.run(
            [sys.executable, "-m", "knit_cli", "admin", *arguments],
            cwd=admin.knit.cwd,
            env={**admin.knit.variables, "HOME": str(admin.knit.home), "PATH": os.environ["PATH"]},
            capture_output=True,
            check=False,
        )
        admin.tools.be_quiet("kill-after")
        if done.returncode != -9:
            assert done.returncode == 0, done.stderr
            return
        yield number
    raise AssertionError("it never ends")


def test_renewal_killed_after_any_call_is_completed_by_the_next(admin: Admin, charts) -> None:
    """With the names that it had, and its authority; what is served is what is in the folder."""
    admin.succeed("prepare", "--host", "knit.example.com")
    admin.succeed("install")
    spec = {"volumes": [{"secret": {"secretName": "knit-admin-tls"}}]}
    admin.tools.add("Pod", "knit-api-1", spec=spec)
    authority = admin.text("certs/ca.crt")
    served = set()
    for _ in killed(admin, "renew-certs"):
        admin.succeed("renew-certs")
        assert names(admin) == ("knit.example.com", "10.0.0.7", "localhost", "127.0.0.1")
        assert admin.text("certs/ca.crt") == authority
        assert tls_files.check_present(SettingsFolder(admin.folder))
        data = admin.tools.objects()["secret/knit-admin-tls"]["data"]
        assert base64.b64decode(data["tls.crt"]).decode() == admin.text("certs/server.crt")
        served.add(data["tls.crt"])
        assert admin.succeed("status", "--json")
    assert len(served) >= 4


def test_uninstall_killed_after_any_call_is_completed_by_the_next(installed: Admin) -> None:
    fill(installed)
    state, kept = installed.tools.state, installed.knit.cwd / "kept"
    shutil.copytree(state, kept)
    count = 0
    for _ in killed(installed, "uninstall", "--hard", "--yes"):
        installed.succeed("uninstall", "--hard", "--yes")
        assert installed.tools.releases() == {}
        left = {
            key for key in installed.tools.objects() if key.split("/")[0] not in ("service", "node")
        }
        assert left == {"persistentvolumeclaim/adopted", "secret/of-others", "namespace/knit"}
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        count += 1
    assert count >= 10


class Killed(BaseException):
    """Nothing in between may handle it."""


@pytest.mark.parametrize("removes_authority", [False, True])
def test_files_killed_at_any_step_are_all_old_or_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removes_authority: bool
) -> None:
    """After the next command has looked; and the old ones are never lost."""
    old_authority, authority = new_authority(), new_authority()
    old, new = new_server(old_authority, ["a"]), new_server(authority, ["a"])
    before = {
        "ca.crt": old_authority.certificate,
        "ca.key": old_authority.key,
        "server.crt": old.certificate,
        "server.key": old.key,
    }
    fresh = None if removes_authority else authority
    after = {
        "ca.crt": fresh and fresh.certificate,
        "ca.key": fresh and fresh.key,
        "server.crt": new.certificate,
        "server.key": new.key,
    }
    seen = set()
    for number in range(1, 200):
        folder = SettingsFolder(tmp_path / str(number))
        folder.create()
        for name, content in before.items():
            folder.write(folder.certs / name, content)
        with monkeypatch.context() as patched:
            cut(patched, number)
            try:
                folder.replace_certificates(
                    {folder.certs / name: one for name, one in after.items()}
                )
                ended = True
            except Killed:
                ended = False
        folder.finish_replacement()
        found = {name: folder.read_bytes(folder.certs / name) for name in before}
        assert found in (before, after)
        seen.add(found == after)
        aside = list(folder.certs.glob("replaced-*/server.key"))
        assert found == before or aside[0].read_bytes() == old.key
        folder.replace_certificates({folder.certs / name: one for name, one in after.items()})
        assert {one.name for one in folder.certs.iterdir() if one.name.startswith(".")} == set()
        if ended:
            assert seen == {False, True}
            assert number > 10
            return
    raise AssertionError("it never ends")


def cut(patched: pytest.MonkeyPatch, number: int) -> None:
    """Kills at the n-th change of a file or folder, before it is made."""
    made = 0

    def counted(whole):
        def step(*arguments, **options):
            nonlocal made
            made += 1
            if made == number:
                raise Killed
            return whole(*arguments, **options)

        return step

    for name in ("replace", "rename", "unlink", "mkdir"):
        patched.setattr(Path, name, counted(getattr(Path, name)))
    patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
