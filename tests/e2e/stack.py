"""An embedded stack of a test's own: its home, its folder, the `knit` command, its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import psutil
import pytest
import yaml

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.services import api_root

T = TypeVar("T")

WITHIN: Final = 300.0
"""Seconds for anything to happen on a crowded machine; never a measurement."""
NOWHERE: Final = "http://127.0.0.1:9"
"""A proxy that does not exist: nothing of the stack may ask it."""


@dataclass(frozen=True)
class Said:
    """What a `knit` command said and how it ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.out)

    def documents(self) -> list[Any]:
        """All JSON documents on stdout, one after the other."""
        decoder, text, found = json.JSONDecoder(), self.out.strip(), []
        while text:
            document, end = decoder.raw_decode(text)
            found.append(document)
            text = text[end:].lstrip()
        return found


@dataclass
class DevStack:
    """One state folder and one home; `knit` runs in `folder`."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    state: Path = field(init=False)
    http: httpx.Client = field(
        init=False, default_factory=lambda: httpx.Client(trust_env=False, timeout=30)
    )

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self.folder / ".knit" / "dev"

    def environ(self) -> dict[str, str]:
        """Gives the environment of a command."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KNIT_", "TEMPORAL_"))}
        return kept | {
            "HOME": str(self.folder),
            "HTTP_PROXY": NOWHERE,
            "http_proxy": NOWHERE,
            **self.environment,
        }

    # --- the command ----------------------------------------------------------------------------

    def knit(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        under: Sequence[str] = (),
        code: int | None = 0,
    ) -> Said:
        """Runs one `knit` command, by another program (`under`) if wanted; checks its exit code."""
        # Not pipes: what the command leaves running must not keep this waiting.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = subprocess.run(
                [*under, *command(*arguments)],
                cwd=cwd or self.folder,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=WITHIN * 2,
            )
            said = Said(done.returncode, *(_all(file) for file in (out, err)))
        assert "Traceback" not in said.err, said.err
        if code is not None:
            assert said.code == code, f"knit {arguments}: {said}"
        return said

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Starts one `knit` command, whose stdout is a pipe."""
        return subprocess.Popen(
            command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def up(self, *options: str) -> None:
        """`knit dev up --detach`."""
        self.knit("dev", "up", "--detach", *options)

    def down(self) -> None:
        """`knit dev down`."""
        self.knit("dev", "down")

    def get(self, path: str, **query: str | list[str]) -> Any:
        """Asks the API directly, which is quicker than the command; waits while it is away."""

        def ask() -> Any:
            record = DevFolder(self.state).load()
            assert record is not None
            try:
                answer = self.http.get(f"{api_root(record.ports)}{path}", params=query)
            except httpx.TransportError:
                return None
            return answer.json() if answer.status_code != 503 else None

        return until(ask)

    def status(self) -> dict[str, Any]:
        """`knit dev status --json`, whether it runs or not."""
        found: dict[str, Any] = self.knit("dev", "status", "--json", code=None).json()
        return found

    def ready(self) -> dict[str, Any]:
        """Waits until the stack is ready; gives its status."""

        def is_ready() -> bool:
            record = DevFolder(self.state).running()
            return record is not None and record.ready

        until(is_ready)
        return self.status()

    # --- what tests do with it ------------------------------------------------------------------

    def apply(self, document: Mapping[str, Any]) -> str:
        """Registers a Plan; gives its id."""
        return str(self.knit("plan", "apply", self.plan_file(document)).json()["planId"])

    def plan_file(self, document: Mapping[str, Any]) -> Path:
        """Writes a Plan's file."""
        with tempfile.NamedTemporaryFile(
            "w", dir=self.folder, suffix=".yaml", delete=False
        ) as file:
            yaml.safe_dump(dict(document), file, sort_keys=False)
        return Path(file.name)

    def push(self, content: str, *tags: str) -> str:
        """Pushes a folder with one file, `word`; gives the Data's id."""
        with tempfile.TemporaryDirectory(dir=self.folder) as source:
            (Path(source) / "word").write_text(content)
            words = [word for tag in tags for word in ("--tag", tag)]
            return str(self.knit("data", "push", *words, source).json()["knitId"])

    def runs(self, plan_id: str) -> list[dict[str, Any]]:
        """Gives the Runs of a Plan."""
        found: list[dict[str, Any]] = self.get("/runs", plan=plan_id)
        return found

    def run_in(self, plan_id: str, *statuses: str) -> dict[str, Any]:
        """Waits until the Plan's only Run has one of these statuses; gives it."""

        def look() -> dict[str, Any] | None:
            found = self.runs(plan_id)
            assert len(found) <= 1, found
            return found[0] if found and found[0]["status"] in statuses else None

        return until(look)

    def pulled(self, knit_id: str) -> dict[str, str]:
        """Pulls a Data; gives its files' texts by relative path."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            self.knit("data", "pull", "-x", knit_id, place)
            root = Path(place) / knit_id
            files = [path for path in sorted(root.rglob("*")) if path.is_file()]
            return {str(path.relative_to(root)): path.read_text() for path in files}

    # --- its processes --------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Gives every process that has to do with the state folder, however it was started."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._concerns(p)]

    def _concerns(self, process: psutil.Process) -> bool:
        root = str(self.state)
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            words = (process.cwd(), *process.cmdline(), *process.environ().values())
            return any(word == root or word.startswith(f"{root}/") for word in words)
        return False

    def end(self) -> None:
        """Ends whatever is left, by id."""
        with suppress(Exception):
            self.down()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.http.close()


def command(*arguments: str | Path) -> list[str]:
    """Gives the command line of a `knit` command."""
    return [str(Path(sys.executable).parent / "knit"), *map(str, arguments)]


def until(look: Callable[[], T | None], within: float = WITHIN) -> T:
    """Asks again and again until there is an answer; gives it."""
    ends = time.monotonic() + within
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def dev_folder() -> Iterator[Path]:
    """A folder for a stack. Not pytest's: that one is made private again by every new session,

    and PostgreSQL, which runs as another user when we are root, must reach its own.
    """
    with tempfile.TemporaryDirectory(prefix="knit-e2e-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of this size at this place, which is made."""
    with mounted(place, size) as is_mounted:
        if not is_mounted:
            pytest.skip("a small file system cannot be mounted here")
        yield


@contextmanager
def mounted(place: Path, size: str) -> Iterator[bool]:
    """Makes this place, and mounts a file system of this size there; False: that is refused."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "knit-test", str(place)]
    if subprocess.run(mount, capture_output=True, timeout=30).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


@contextmanager
def dev_stack(folder: Path | None = None, **environment: str) -> Iterator[DevStack]:
    """A stack that is not up yet; whatever of it runs at the end is ended."""
    with ExitStack() as cleaning:
        stack = DevStack(folder or cleaning.enter_context(dev_folder()), environment)
        try:
            yield stack
        finally:
            stack.end()


def shell_plan(script: str, tag: str, **more: Any) -> dict[str, Any]:
    """Gives a Plan that runs a shell script on Data with this tag, with the output /out and a log.

    Its input is /in; its output carries `of:TAG`, with the tag's colon made a dash.
    """
    return {
        "image": "host/sh:1",
        "entrypoint": ["sh", "-c", script],
        "inputs": [{"path": "/in", "tags": [tag]}],
        "outputs": [{"path": "/out", "tags": [f"of:{tag.replace(':', '-')}"]}],
        "log": {"tags": [f"log-of:{tag.replace(':', '-')}"]},
        **more,
    }


def _all(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))
