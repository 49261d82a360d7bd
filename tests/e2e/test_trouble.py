"""Bad input and trouble: every failure is said with place and fix, and leaves nothing half."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.stack import WITHIN, DevStack, dev_folder, dev_stack, shell_plan, small_disk, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root that may read only what its rights say, as everybody else."""


def failed(stack: DevStack, *tags: str) -> list[dict[str, Any]]:
    """Failed Data with these tags."""
    found: list[dict[str, Any]] = stack.get("/data", tag=["knit#transient:failed", *tags])
    return found


# --- Plans --------------------------------------------------------------------------------------

GOOD = """image: host/sh:1
entrypoint: [sh, -c, "true"]
inputs:
  - path: /in
    tags: ["bad:plan"]
outputs:
  - path: /out
    tags: ["bad:result"]
resources: {memory: 64Mi}
"""
BAD_PLANS = {
    "an unknown key": ("outputs:", "ouputs:", (":6:1", "ouputs", "outputs")),
    "an unknown key within": ("tags: [\"bad:plan\"]", "tag: [\"bad:plan\"]", (":5:5", "tags")),
    "a bad quantity": ("64Mi", "64 Megabytes", ("resources", "memory", "64 Megabytes")),
    "overlapping paths": ("/out", "/in/below", ("/in/below", "/in")),
    "equal paths": ("/out", "/in", ("/in",)),
    "a relative path": ("path: /out", "path: out", ("out", "/")),
    "broken YAML": ("[sh, -c", "[sh, -c]]", (":2:21",)),
    "a tag without a colon": ("bad:result", "result", ("outputs[0].tags[0]", ":8:12", "key:value")),
    "a reserved tag": ("bad:result", "knit#id:1", ("knit#",)),
    "no image": ("image: host/sh:1\n", "", ("image",)),
    "an image that cannot be": ("host/sh:1", "Host/SH:1", ("Host/SH",)),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_PLANS)
def test_a_bad_plan_is_refused_with_place_and_fix(stack: DevStack, what: str) -> None:
    """Exit 1, the place, what to do; nothing is registered."""
    old, new, words = BAD_PLANS[what]
    assert GOOD.count(old) >= 1
    file = stack.folder / "bad.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    said = stack.knit("plan", "apply", file, code=1)
    assert said.out == ""
    assert "hint: " in said.err
    for word in words:
        assert word in said.err, said.err
    assert stack.knit("plan", "find", "--in-tag", "bad:plan").json() == []


def test_a_plan_file_that_is_not_there_or_no_text(stack: DevStack) -> None:
    """What cannot be read at all is an error of the same kind."""
    (stack.folder / "image.yaml").write_bytes(bytes(range(256)))
    for name in ("nowhere.yaml", "image.yaml", "."):
        said = stack.knit("plan", "apply", name, code=1)
        assert "hint: " in said.err


def test_the_same_plan_in_other_words_says_what_differs(stack: DevStack) -> None:
    """An equivalent Plan that differs is refused, with the command that makes it the same."""
    document = shell_plan("true", "equivalent:1")
    stack.apply(document)
    changed = stack.plan_file({**document, "active": False})
    said = stack.knit("plan", "apply", changed, code=1)
    assert "knit plan active no" in said.err


# --- push ---------------------------------------------------------------------------------------


def test_a_missing_folder_is_not_pushed(stack: DevStack) -> None:
    """Nothing is uploaded, not even what else was named."""
    there = stack.folder / "there"
    there.mkdir()
    said = stack.knit("data", "push", "--tag", "push:missing", there, "nowhere", code=1)
    assert "nowhere" in said.err
    assert "nothing was uploaded" in said.err
    assert stack.knit("data", "find", "--tag", "push:missing").json() == []


def test_an_unreadable_file_is_named_before_anything_is_sent(stack: DevStack) -> None:
    """The file is named, and the fix; nothing is uploaded."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root reads everything, and there is no setpriv to take that away")
    folder = stack.folder / "unreadable"
    folder.mkdir()
    (folder / "fine").write_text("x")
    (folder / "secret").write_text("x")
    (folder / "secret").chmod(0)
    under = WITHOUT_OVERRIDE if os.geteuid() == 0 else ()
    said = stack.knit("data", "push", "-t", "push:unreadable", folder, under=under, code=1)
    assert "secret" in said.err
    assert "make it readable" in said.err
    assert stack.knit("data", "find", "--tag", "push:unreadable").json() == []


@pytest.mark.parametrize("media_type", ["application/x-tar", "application/tar+gzip"])
@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_cut_in_the_middle_leaves_a_failed_run_at_most(
    stack: DevStack, media_type: str, reset: bool
) -> None:
    """Nothing of it ever matches a Plan, whether the client vanishes or closes politely."""
    tag = f"push:cut-{media_type.rpartition('/')[2].replace('+', '-')}-{reset}"
    plan = stack.apply(shell_plan("true", tag))
    address = urlsplit(stack.status()["api"])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz" if "gzip" in media_type else "w") as tar:
        member = tarfile.TarInfo("big")
        member.size = 1 << 20
        tar.addfile(member, io.BytesIO(os.urandom(1 << 20)))
    half = archive.getvalue()[: 1 << 19]
    with socket.create_connection((address.hostname or "", address.port or 0), WITHIN) as client:
        client.sendall(
            f"POST /api/data?tag={tag} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
            f"{len(half):x}\r\n".encode()
            + half + b"\r\n"
        )  # fmt: skip
        # The upload has begun when its Data is there.
        until(lambda: stack.get("/data", tag=tag) or None)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    (data,) = until(lambda: failed(stack, tag) or None)
    assert stack.get("/data", tag=tag) == [data]
    assert stack.runs(plan) == []
    assert stack.pulled(data["knitId"]) == {}


def test_archives_that_lie_are_refused(stack: DevStack, tmp_path: Path) -> None:
    """A path that leads out of the Data, and what is no archive: 400 with advice, nothing done."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    for name, body in (("hostile", archive.getvalue()), ("none", b"no archive" * 200)):
        file = tmp_path / name
        file.write_bytes(body)
        done = subprocess.run(
            [
                "curl", "--silent", "--noproxy", "*", "--data-binary", f"@{file}",
                "--header", "Content-Type: application/x-tar", "--write-out", "%{http_code}",
                f"{stack.status()['api']}/data?tag=push:{name}",
            ],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.endswith("400"), done.stdout
        assert "advice" in done.stdout
        assert stack.knit("data", "find", "-t", f"push:{name}", "--transient", "no").json() == []
    assert not list(stack.state.rglob("escaped"))


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cramped() -> Iterator[DevStack]:
    """A stack whose Data have 8 MiB of room."""
    with (
        dev_folder() as folder,
        small_disk(folder / ".knit" / "dev" / "compute", "8m"),
        dev_stack(folder) as stack,
    ):
        stack.up()
        yield stack


def test_a_push_that_does_not_fit_is_refused_and_room_is_given_back(cramped: DevStack) -> None:
    """The disk is named as the reason; nothing matches; a smaller push works afterwards."""
    plan = cramped.apply(shell_plan("true", "fits:no"))
    big = cramped.folder / "big"
    big.write_bytes(os.urandom(16 << 20))
    said = cramped.knit("data", "push", "--tag", "fits:no", big, code=1)
    assert "full" in said.err or "room" in said.err, said.err
    assert "hint: " in said.err
    until(lambda: failed(cramped, "fits:no") or None)
    assert cramped.runs(plan) == []
    assert cramped.pulled(cramped.push("small", "fits:yes")) == {"word": "small"}


def test_a_run_that_fills_the_disk_fails_and_others_go_on(cramped: DevStack) -> None:
    """It says that there was no room; the Run after it, with some room again, is done."""
    full = shell_plan("cat /dev/zero > /out/all; code=$?; rm /out/all; exit $code", "fill:disk")
    plan, other = cramped.apply(full), cramped.apply(shell_plan("cat /in/word", "fill:no"))
    cramped.push("x", "fill:disk")
    run = cramped.run_in(plan, "done", "failed")
    assert (run["status"], run["exit"]["code"]) == ("failed", 1)
    # Whether the complaint itself found room in the log, or the reason says that it did not.
    log = cramped.knit("run", "show", "--log", run["runId"]).out
    assert "No space left" in log + run["exit"]["message"], run
    cramped.push("x", "fill:no")
    assert cramped.run_in(other, "done", "failed")["status"] == "done"


# --- Runs that fail -----------------------------------------------------------------------------


def ended(stack: DevStack, tag: str, document: dict[str, Any]) -> dict[str, Any]:
    """Applies, pushes, waits for the end; gives the failed Run, whose outputs match nothing."""
    plan = stack.apply(document)
    stack.push("x", tag)
    run = stack.run_in(plan, "done", "failed")
    assert run["status"] == "failed"
    made = f"of:{tag.replace(':', '-')}"
    assert len(stack.get("/data", tag=made)) == len(failed(stack, made)) == 1
    return run


@pytest.mark.parametrize(
    ("name", "script", "code", "words"),
    [
        ("code-3", "echo about to; exit 3", 3, "Error"),
        ("killed", "kill -9 $$", 137, "SIGKILL"),
        ("terminated", "kill -15 $$", 143, "SIGTERM"),
        ("not-there", "/no/such/command", 127, "not found"),
        ("no-program", "/etc/passwd", 126, "cannot be executed"),
    ],
)
def test_a_failing_task_says_why(
    stack: DevStack, name: str, script: str, code: int, words: str
) -> None:
    """Its exit code and a reason in words, in `run show`."""
    run = ended(stack, f"fails:{name}", shell_plan(script, f"fails:{name}"))
    shown = stack.knit("run", "show", run["runId"]).json()["exit"]
    assert shown["code"] == code
    assert words in shown["message"]


def test_an_entrypoint_that_does_not_exist(stack: DevStack) -> None:
    """Also where there is no shell that would say it."""
    document = shell_plan("", "fails:entry", entrypoint=["no-such-command", "x"])
    run = ended(stack, "fails:entry", document)
    assert run["exit"]["code"] == 127
    assert "not found" in run["exit"]["message"]


# --- containers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def image(sandbox: dict[str, str]) -> str:
    """An image that the container engine has."""
    from tests.contract.compute.local_adapters import LocalEngineAdapter, need_engine

    await need_engine()
    return LocalEngineAdapter.image


def test_a_container_runs(stack: DevStack, image: str) -> None:
    """The same Plan with a container image: so what fails below fails for its own reason."""
    plan = stack.apply(shell_plan("cat /in/word > /out/word", "container:fine", image=image))
    stack.push("boxed", "container:fine")
    run = stack.run_in(plan, "done", "failed")
    assert run["status"] == "done", run
    assert stack.pulled(run["outputs"][0]["knitId"]) == {"word": "boxed"}


def test_a_missing_image_ends_the_run_after_a_short_patience(
    stack: DevStack, image: str, registry: str
) -> None:
    """A registry answers that it has no such image: the reason names it."""
    name = f"{registry}/knit/never-made:7"
    run = ended(stack, "fails:image", shell_plan("true", "fails:image", image=name))
    assert run["exit"]["code"] != 0
    assert "knit/never-made" in run["exit"]["message"]
    assert "[ImageNotFound]" in run["exit"]["message"]


def test_a_container_out_of_memory_is_killed(stack: DevStack, image: str) -> None:
    """Its own limit counts: exit code 137, and the kill is the reason."""
    script = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"
    more = {"image": image, "resources": {"memory": "32Mi"}}
    run = ended(stack, "fails:memory", shell_plan(script, "fails:memory", **more))
    assert run["exit"]["code"] == 137
    # podman on cgroups v1 does not tell why.
    assert any(word in run["exit"]["message"] for word in ("OOMKilled", "SIGKILL"))
