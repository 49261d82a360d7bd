"""Runs helm and kubectl against one namespace of one cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, Self

from knit_cli.errors import CliError
from knit_cli.output import say

_ENDING: Final = 30.0
"""Seconds that helm has to mark its release as failed when it is told to end."""
_TICK: Final = 0.25


class ToolFailed(CliError):
    """helm or kubectl ended with an error; `stderr` is what it said."""

    def __init__(self, summary: str, stderr: str, *, advice: str | None = None) -> None:
        super().__init__(summary, reason=stderr.strip() or None, advice=advice)
        self.stderr = stderr

    @property
    def not_found(self) -> bool:
        """Whether the object or release does not exist."""
        return "notfound" in self.stderr.lower().replace(" ", "")


@dataclass(frozen=True)
class Cluster:
    """Where knit is, or will be installed, and the programs that reach it.

    `lock`: a file descriptor that the programs inherit. `verbose`: each command is shown.
    """

    kubeconfig: Path | None
    namespace: str
    variables: Mapping[str, str]
    verbose: bool = False
    lock: int | None = None
    cwd: Path = field(default_factory=Path)

    def with_kubeconfig(self, path: Path | None) -> Self:
        """Gives the same, reached by another kubeconfig; None: the one of the environment."""
        return replace(self, kubeconfig=path)

    def helm(
        self, *arguments: str, values: Any = None, on_tick: Callable[[], None] | None = None
    ) -> str:
        """Runs helm in the namespace and returns its stdout.

        Args:
            arguments: the words after `helm`.
            values: given to it as a values file on stdin, for `--values -`.
            on_tick: called some times a second while it runs.

        Raises:
            ToolFailed: it ended with an error.
            CliError: it cannot be started.
        """
        given = None if values is None else json.dumps(values)
        program = self._program("HELM", "helm")
        command = [*program, *arguments, "--namespace", self.namespace]
        return self._run(command, f"helm {arguments[0]}", given, on_tick)

    def helm_json(self, *arguments: str) -> Any:
        """Runs helm with `--output json` and returns what it printed."""
        return json.loads(self.helm(*arguments, "--output", "json") or "null")

    def kubectl(
        self, *arguments: str, given: str | None = None, into: IO[bytes] | None = None
    ) -> str:
        """Runs kubectl in the namespace, `given` on its stdin; raises as `helm` does.

        What it prints goes to the file `into`, if there is one.
        """
        program = self._program("KUBECTL", "kubectl")
        command = [*program, "--namespace", self.namespace, *arguments]
        return self._run(command, f"kubectl {arguments[0]}", given, into=into)

    @contextmanager
    def piped(self, *arguments: str, stderr: IO[bytes]) -> Iterator[Piped]:
        """Runs kubectl with pipes to its stdin and from its stdout; it is ended with the block.

        Raises:
            CliError: it cannot be started.
        """
        command = [*self._program("KUBECTL", "kubectl"), "--namespace", self.namespace, *arguments]
        process = self._started(command, subprocess.PIPE, stderr)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            yield Piped(process.stdin, process.stdout, process.wait)
        finally:
            process.terminate()
            with suppress(OSError):  # what was not written any more
                process.__exit__(None, None, None)

    def get(self, *arguments: str) -> Any:
        """Gives an object, or a list's items, as kubectl's `get` does; raises ToolFailed."""
        found = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found.get("items", found)

    def find(self, *arguments: str) -> Any | None:
        """Gives an object; None: it does not exist."""
        try:
            return self.get(*arguments)
        except ToolFailed as failed:
            if failed.not_found:
                return None
            raise

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Makes an object as described, on the server's side: no copy is left in annotations."""
        self.kubectl(
            *("apply", "--server-side", "--force-conflicts", "--field-manager", "knit-admin"),
            *("--filename", "-"),
            given=json.dumps(manifest),
        )

    def delete(self, *arguments: str) -> None:
        """Deletes objects; those that do not exist are fine."""
        self.kubectl("delete", "--ignore-not-found", *arguments)

    def _program(self, variable: str, default: str) -> list[str]:
        """Gives the command that a variable names: a path, perhaps with blanks, or words."""
        named = self.variables.get(variable) or default
        words = [named] if Path(named).is_file() else shlex.split(named)
        return words if self.kubeconfig is None else [*words, "--kubeconfig", str(self.kubeconfig)]

    def _run(
        self,
        command: Sequence[str],
        title: str,
        given: str | None,
        on_tick: Callable[[], None] | None = None,
        into: IO[bytes] | None = None,
    ) -> str:
        stdout = subprocess.PIPE if into is None else into
        process = self._started(command, stdout, subprocess.PIPE, title.partition(" ")[0].upper())
        out, err = _communicate(process, given, on_tick)
        if process.returncode != 0:
            raise ToolFailed(f"{title} failed", err, advice=_advice(err))
        return out

    def _started(
        self,
        command: Sequence[str],
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        variable: str = "KUBECTL",
    ) -> subprocess.Popen[bytes]:
        """Starts a program; raises CliError, which names the variable that says where it is."""
        if self.verbose:
            say(f"+ {shlex.join(command)}")
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                # Releases are looked for, and repaired, where helm keeps them by default.
                env={**self.variables, "HELM_DRIVER": "secret"},
                cwd=self.cwd,
                pass_fds=() if self.lock is None else (self.lock,),
            )
        except OSError as cause:
            raise CliError(
                f"{command[0]} cannot be started",
                reason=cause.strerror,
                advice=f"install it, or name it in {variable}",
            ) from cause


@dataclass(frozen=True)
class Piped:
    """A program that runs, and the pipes to it."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    wait: Callable[[], int]


def _communicate(
    process: subprocess.Popen[bytes], given: str | None, on_tick: Callable[[], None] | None
) -> tuple[str, str]:
    """Feeds a process, and waits for its end; it is ended when this one is told to end."""
    fed: bytes | None = (given or "").encode("utf-8", "surrogateescape")
    try:
        while True:
            try:
                out, err = process.communicate(fed, timeout=_TICK if on_tick else None)
                return (out or b"").decode("utf-8", "replace"), err.decode("utf-8", "replace")
            except subprocess.TimeoutExpired:
                fed = None  # all of it was taken over by the first call
                assert on_tick is not None
                on_tick()
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_ENDING)
        if process.poll() is None:
            process.kill()
            process.wait()
        raise


def _advice(stderr: str) -> str | None:
    text = stderr.lower()
    if "unable to connect" in text or "connection refused" in text or "no such host" in text:
        return "check that the cluster runs, and that the kubeconfig is its own (--kubeconfig)"
    if "current-context must exist" in text:
        return "choose one: kubectl config use-context NAME; or name another kubeconfig"
    if "loading config file" in text or "invalid configuration" in text:
        return "correct the kubeconfig, or name another one (--kubeconfig)"
    if "release: already exists" in text or "another operation" in text:
        return "another helm is at work on it: wait until that has ended, then repeat the command"
    if "forbidden" in text:
        return "use a kubeconfig with the rights; `knit admin doctor` lists those that are missing"
    if "unauthorized" in text or "must be logged in" in text:
        return "use a kubeconfig whose credentials are valid (--kubeconfig)"
    return None


def documents(text: str) -> Iterator[Any]:
    """Reads the JSON documents that stand one behind the other in a text."""
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        one, at = decoder.raw_decode(text, at)
        yield one
