"""Finds a container engine, and builds the arguments with which it creates containers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import RunPod
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.domain.volumes import Mount
from knit_workflows.settings import LocalSettings

KNOWN: Final = ("docker", "podman", "nerdctl")
_AUTO: Final = "auto"
_NO_ENGINE: Final = "none"
_COMMAND_TIMEOUT: Final = 20.0
"""Seconds after which an engine counts as unresponsive."""
_MAX_LINE: Final = 60_000
"""Bytes of a line of an `--env-file`; that of Go's scanner, which all engines use, is 65,536."""
_MIN_CPUS: Final = Decimal("0.01")
_MIN_MEMORY: Final = 6 * 1024 * 1024
"""Bytes; engines refuse less of either."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A responsive container engine: the path of its command, and its dialect of options."""

    command: str
    dialect: str


class EngineFinder:
    """Finds the container engine once; after a failure the next call tries again.

    Concurrent calls share one attempt: it may take long, and many may wait for it.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._finding: asyncio.Task[Engine] | None = None

    async def engine(self) -> Engine:
        """Gives the engine; raises BackendUnavailable, or BackendRejected when there is none."""
        finding = self._finding
        if finding is None or (finding.done() and (finding.cancelled() or finding.exception())):
            finding = self._finding = asyncio.create_task(self._find())
        return await asyncio.shield(finding)

    async def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """Runs a short command of an engine; gives its exit code and its output."""
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._settings.environment),
        )
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT):
                output, _ = await process.communicate()
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                return -1, f"{Path(command).name} did not answer within {_COMMAND_TIMEOUT:.0f} s"
            raise
        return process.returncode or 0, output.decode(errors="replace").strip()

    async def remove(self, command: str, container: str) -> None:
        """Removes a container; a missing one is fine; raises BackendUnavailable."""
        code, output = await self.run(command, "rm", "--force", container)
        if code == 0:
            return
        # Engines differ in whether a missing container is an error, so list it.
        code, left = await self.run(
            command, "ps", "--all", "--quiet", "--filter", f"name=^{container}$"
        )
        if code != 0 or left:
            raise BackendUnavailable(f"the container {container} cannot be removed: {output}")

    async def _find(self) -> Engine:
        named = self._settings.engine
        if named == _NO_ENGINE:
            raise BackendRejected(
                "container images are not allowed here",
                advice="use an image named host/…, or set KNIT_COMPUTE__LOCAL__ENGINE",
            )
        search = self._settings.environment.get("PATH")
        names = KNOWN if named == _AUTO else (named,)
        commands = [path for name in names if (path := shutil.which(name, path=search))]
        if not commands:
            raise BackendRejected(
                f"there is no container engine here (looked for {', '.join(names)})",
                advice="install podman or docker, or use an image named host/…",
            )
        refusals = []
        # A command may be there without its daemon, so it is asked; all at once, as one may hang.
        answers = await asyncio.gather(*(self.run(command, "info") for command in commands))
        for command, (code, output) in zip(commands, answers, strict=True):
            if code == 0:
                return Engine(command, _dialect(command, output))
            refusals.append(f"{Path(command).name}: {output.splitlines()[-1] if output else code}")
        refused = "; ".join(refusals)
        raise BackendUnavailable(
            f"no container engine answers ({refused})",
            advice="let the user that knit runs as use the engine, e.g. by making it a member of "
            "its group"
            if "permission denied" in refused.lower()
            else "start the engine, e.g. with `systemctl start docker`",
        )


def _dialect(command: str, info: str) -> str:
    name = Path(command).name
    # Podman is often installed under docker's name.
    return "podman" if "buildahVersion" in info else name if name in KNOWN else "docker"


def create_arguments(
    pod: RunPod, state: StateFolder, settings: LocalSettings, dialect: str
) -> list[str]:
    """Gives the arguments of `ENGINE create`, which reads `environment_file` from its stdin."""
    return [
        *("--name", pod.name, "--pull", "never", "--hostname", pod.name[:63]),
        *("--label", f"knit.run={pod.run_id}", "--label", f"knit.plan={pod.plan_id}"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *_dialect_options(dialect),
        *([] if settings.network else ["--network", "none"]),
        *_limits(pod, dialect),
        *_shm(pod),
        *_volumes(pod, state),
        *_environment(pod),
        *(["--entrypoint", pod.entrypoint[0]] if pod.entrypoint else []),
        *("--", pod.image),
        *pod.entrypoint[1:],
        *pod.args,
    ]


def environment_file(pod: RunPod) -> bytes:
    """Gives the lines of the `--env-file` that a container is created with; empty without any."""
    lines = (f"{key}={value}\n" for key, value in pod.env.items() if _fits_a_line(key, value))
    return "".join(lines).encode()


def _environment(pod: RunPod) -> Iterator[str]:
    """Gives the options for variables: their file, and those that it cannot hold."""
    if environment_file(pod):
        yield from ("--env-file", "/dev/stdin")
    for key, value in pod.env.items():
        if not _fits_a_line(key, value):
            yield from ("--env", f"{key}={value}")


def _fits_a_line(key: str, value: str) -> bool:
    # Engines end a line at a line feed, drop a carriage return before it, and refuse longer ones.
    return not {"\n", "\r"} & {*value} and len(f"{key}={value}".encode()) < _MAX_LINE


def _dialect_options(dialect: str) -> list[str]:
    if dialect == "nerdctl":
        return []
    # Volumes are the user's own folders, whose SELinux labels must not change; the supervisor keeps
    # the log, so the engine need not.
    return ["--security-opt", "label=disable", "--log-driver", "none"]


def _limits(pod: RunPod, dialect: str) -> Iterator[str]:
    """Gives the options for CPU, memory and GPUs; other resources exist only on a cluster."""
    for name, text in pod.resources.items():
        amount = parse_quantity(text)
        if name == "cpu" and amount > 0:
            # Some engines refuse more than the machine has.
            cpus = min(max(amount, _MIN_CPUS), Decimal(os.cpu_count() or 1))
            yield from ("--cpus", f"{cpus:f}")
        elif name == "memory" and amount > 0:
            size = str(max(int(amount), _MIN_MEMORY))
            yield from ("--memory", size, "--memory-swap", size)
        elif name.endswith("/gpu") and amount > 0:
            if dialect == "podman":
                yield from ("--device", f"{name}=all")
            else:
                yield from ("--gpus", f"{amount:f}")


def _shm(pod: RunPod) -> Iterator[str]:
    if pod.options.shm_size is not None:
        yield from ("--shm-size", str(int(parse_quantity(pod.options.shm_size))))


def _volumes(pod: RunPod, state: StateFolder) -> Iterator[str]:
    def mount(mounted: Mount, *, readonly: bool) -> str:
        source = state.volume(mounted.volume)
        parts = ("type=bind", f"source={source}", f"target={mounted.path}")
        for part in parts:
            if any(character in part for character in ',"\n\0'):
                raise BackendRejected(
                    f"container engines cannot mount {mounted.path!r} from {str(source)!r}",
                    advice="use paths without commas, quotes and line breaks",
                )
        return ",".join((*parts, "readonly")) if readonly else ",".join(parts)

    for mounted in pod.inputs:
        yield from ("--mount", mount(mounted, readonly=True))
    for mounted in pod.outputs:
        yield from ("--mount", mount(mounted, readonly=False))
