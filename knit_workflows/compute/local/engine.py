"""Speaks to a container engine by its command line: finds one, and says how to make containers."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import Mount, RunPod
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.settings import LocalSettings

KNOWN: Final = ("docker", "podman", "nerdctl")
_AUTO: Final = "auto"
_NO_ENGINE: Final = "none"
_PATIENCE: Final = 20.0
"""Seconds after which an engine counts as not answering."""
_LEAST_MEMORY: Final = 6 * 1024 * 1024
"""Engines refuse less."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers: the path of its command, and which dialect it speaks."""

    command: str
    dialect: str


class EngineFinder:
    """Finds the container engine once; one that does not answer yet is asked again.

    Whoever asks while an engine is being asked gets the same answer: it may take long, and many
    may wait for it.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._asked: asyncio.Task[Engine] | None = None

    async def engine(self) -> Engine:
        """Gives the engine; raises BackendUnavailable, or BackendRejected when there is none."""
        asked = self._asked
        if asked is None or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = self._asked = asyncio.create_task(self._find())
        return await asyncio.shield(asked)

    async def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """Runs a short command of an engine; gives its exit code and all it said."""
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._settings.environment),
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                said, _ = await process.communicate()
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                return -1, f"{Path(command).name} did not answer within {_PATIENCE:.0f} s"
            raise
        return process.returncode or 0, said.decode(errors="replace").strip()

    async def remove(self, command: str, container: str) -> None:
        """Removes a container; gone already: fine. Raises BackendUnavailable."""
        code, said = await self.run(command, "rm", "--force", container)
        if code == 0:
            return
        # Engines differ in whether a missing container is an error, so it is looked for.
        code, left = await self.run(
            command, "ps", "--all", "--quiet", "--filter", f"name=^{container}$"
        )
        if code != 0 or left:
            raise BackendUnavailable(f"the container {container} cannot be removed: {said}")

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
        for command, (code, said) in zip(commands, answers, strict=True):
            if code == 0:
                return Engine(command, _dialect(command, said))
            refusals.append(f"{Path(command).name}: {said.splitlines()[-1] if said else code}")
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
    """Says what follows `ENGINE create`."""
    return [
        *("--name", pod.name, "--pull", "never", "--hostname", pod.name[:63]),
        *("--label", f"knit.run={pod.run_id}", "--label", f"knit.plan={pod.plan_id}"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *_of_dialect(dialect),
        *([] if settings.network else ["--network", "none"]),
        *_limits(pod, dialect),
        *_volumes(pod, state),
        *(word for key, value in pod.env.items() for word in ("--env", f"{key}={value}")),
        *(["--entrypoint", pod.entrypoint[0]] if pod.entrypoint else []),
        *("--", pod.image),
        *pod.entrypoint[1:],
        *pod.args,
    ]


def _of_dialect(dialect: str) -> list[str]:
    if dialect == "nerdctl":
        return []
    # Volumes are the user's own folders, which must not get other SELinux labels; the log is
    # written by the supervisor, so the engine need not keep a second one.
    return ["--security-opt", "label=disable", "--log-driver", "none"]


def _limits(pod: RunPod, dialect: str) -> Iterator[str]:
    """Limits CPU and memory, and gives GPUs; what only a cluster knows is left out."""
    for name, text in pod.resources.items():
        amount = parse_quantity(text)
        if name == "cpu" and amount > 0:
            # Some engines refuse more than there are.
            yield from ("--cpus", f"{min(amount, Decimal(os.cpu_count() or 1)):f}")
        elif name == "memory" and amount > 0:
            size = str(max(int(amount), _LEAST_MEMORY))
            yield from ("--memory", size, "--memory-swap", size)
        elif name.endswith("/gpu") and amount > 0:
            if dialect == "podman":
                yield from ("--device", f"{name}=all")
            else:
                yield from ("--gpus", f"{amount:f}")


def _volumes(pod: RunPod, state: StateFolder) -> Iterator[str]:
    def mount(mounted: Mount, *, readonly: bool) -> str:
        source = state.volume(mounted.volume)
        words = ("type=bind", f"source={source}", f"target={mounted.path}")
        for word in words:
            if any(character in word for character in ',"\n\0'):
                raise BackendRejected(
                    f"container engines cannot mount {mounted.path!r} from {str(source)!r}",
                    advice="use paths without commas, quotes and line breaks",
                )
        return ",".join((*words, "readonly")) if readonly else ",".join(words)

    for mounted in pod.inputs:
        yield from ("--mount", mount(mounted, readonly=True))
    for mounted in pod.outputs:
        yield from ("--mount", mount(mounted, readonly=False))
