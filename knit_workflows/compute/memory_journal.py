"""Keeps the run pods of `MemoryBackend` in a folder of small files, so that they outlive knit.

```
volumes/<volume>/       files of the volumes
pods/<pod>/             pod (a pickle, there before the folder has its name)  exit  failure
                        held  stop  carrier (locked by the process in which the pod runs)
starts                  one line per start of a pod: its name
held                    every pod is held
```
A crash test kills the worker and starts another: pods without an exit are taken up by whichever
process next looks at them and gets their `carrier` lock, which the kernel frees with its holder.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import tempfile
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import RunPod, StartFailure, StartFailureKind
from knit_workflows.domain.runs import Exit

_HIDDEN: Final = "."


@dataclass(frozen=True, slots=True)
class Record:
    """What the journal knows of a pod."""

    pod: RunPod
    exit: Exit | None
    ended_at: datetime | None
    notes: tuple[str, ...]
    start_failure: StartFailure | None
    stopping: bool


class MemoryJournal:
    """The folder; every method is one step that has happened or has not, whenever it is killed."""

    def __init__(self, folder: Path) -> None:
        self.volumes = folder / "volumes"
        self._pods = folder / "pods"
        self._starts = folder / "starts"
        self._held = folder / "held"
        self._start_failures = folder / "start_failures"
        self._carried: dict[str, int] = {}
        for part in (self.volumes, self._pods, self._start_failures):
            part.mkdir(parents=True, exist_ok=True)

    def claim(self, pod: RunPod) -> bool:
        """Records a launched pod; False when it is there already."""
        plain = replace(pod, resources=dict(pod.resources), env=dict(pod.env))
        draft = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=self._pods))
        (draft / "pod").write_bytes(pickle.dumps(plain))
        (draft / "id").write_text(uuid.uuid4().hex)  # another launch under this name is another pod
        try:
            draft.rename(self._pods / pod.name)
        except OSError:
            shutil.rmtree(draft)
            return False
        return True

    def names(self) -> list[str]:
        """All pods."""
        return sorted(p.name for p in self._pods.iterdir() if not p.name.startswith(_HIDDEN))

    def load(self, name: str) -> Record | None:
        """Reads a pod; None when there is none."""
        folder = self._pods / name
        try:
            pod = pickle.loads((folder / "pod").read_bytes())
        except FileNotFoundError:
            self._let_go(name)
            return None
        exit, ended_at, notes = None, None, ()
        with suppress(FileNotFoundError):
            ended = json.loads((folder / "exit").read_text())
            exit = Exit(ended["code"], ended["message"])
            ended_at, notes = datetime.fromisoformat(ended["at"]), tuple(ended["notes"])
        stopping = (folder / "stop").exists()
        return Record(pod, exit, ended_at, notes, self._start_failure(name), stopping)

    def carry(self, name: str) -> bool:
        """Becomes the process in which a pod runs; False while another one lives that is it."""
        if name in self._carried:
            return True
        try:
            handle = os.open(self._pods / name / "carrier", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._carried[name] = handle
        return True

    def note_start(self, name: str) -> None:
        """Records that a pod starts; once, even if an earlier carrier died after that.

        Only its carrier calls this, so nobody else writes the same line meanwhile.
        """
        with suppress(FileNotFoundError):
            line = f"{name} {(self._pods / name / 'id').read_text()}\n"
            with self._starts.open("a+") as starts:
                starts.seek(0)
                if line not in starts:
                    starts.write(line)

    def starts(self) -> list[str]:
        """Names of the pods that were started, in order."""
        with suppress(FileNotFoundError):
            return [line.split()[0] for line in self._starts.read_text().splitlines()]
        return []

    def finish(self, name: str, exit: Exit, at: datetime, notes: tuple[str, ...]) -> None:
        """Records how a pod ended; the first word counts."""
        ended = {"code": exit.code, "message": exit.message, "at": at.isoformat(), "notes": notes}
        text = json.dumps(ended)
        with suppress(FileNotFoundError):
            self._write_once(self._pods / name / "exit", text)

    def set_start_failure(self, name: str, failure: StartFailure | None) -> None:
        """Records what keeps a pod from starting."""
        path = self._start_failures / name
        if failure is None:
            path.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
            self._write_once(path, json.dumps(asdict(failure)))

    def hold(self, *names: str) -> None:
        """Records that these pods (none named: all) run until they are finished by name."""
        if not names:
            self._held.touch()
        for name in names:
            self._held.with_name(f"held-{name}").touch()

    def held(self, name: str) -> bool:
        """Says whether a pod is held."""
        return self._held.exists() or self._held.with_name(f"held-{name}").exists()

    def request_stop(self, name: str) -> None:
        """Records that a pod is to be killed and removed."""
        with suppress(FileNotFoundError):
            (self._pods / name / "stop").touch()

    def remove(self, name: str) -> None:
        """Forgets a pod."""
        grave = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=self._pods))
        with suppress(FileNotFoundError):
            (self._pods / name).rename(grave / name)
        shutil.rmtree(grave)
        self._let_go(name)

    def _let_go(self, name: str) -> None:
        handle = self._carried.pop(name, None)
        if handle is not None:
            os.close(handle)

    def _start_failure(self, name: str) -> StartFailure | None:
        try:
            found = json.loads((self._start_failures / name).read_text())
        except FileNotFoundError:
            return None
        return StartFailure(StartFailureKind(found["kind"]), found["reason"], found["message"])

    def _write_once(self, path: Path, text: str) -> None:
        handle, draft = tempfile.mkstemp(prefix=_HIDDEN, dir=path.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        with suppress(FileExistsError):
            os.link(draft, path)
        Path(draft).unlink()
