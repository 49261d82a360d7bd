"""`knit admin verify` and `rebuild`: what needs database, Temporal and back-end within reach."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.dev_stack import environment_beside
from knit_cli.dev.dev_folder import DevFolder
from knit_cli.errors import CliError

VERIFY: Final = "knit_workflows.inspection.verify"
REBUILD: Final = "knit_workflows.inspection.rebuild"
_WORKER: Final = "deployment/knit-worker-compute"
"""Only its account may see claims and pods."""


@dataclass
class Report:
    """What came of a verification: see `knit_workflows.inspection.verify`."""

    findings: list[dict[str, Any]] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    not_repaired: list[str] = field(default_factory=list)
    counted: dict[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """Gives it for scripts."""
        return {
            "findings": self.findings,
            "repaired": self.repaired,
            "notRepaired": self.not_repaired,
            "counted": self.counted,
        }


def on_cluster(cluster: Cluster, module: str, arguments: Sequence[str]) -> Iterator[str]:
    """Gives the lines that a module prints in a pod of a worker; raises CliError."""
    command = ("python3", "-m", module, *arguments)
    printed = cluster.kubectl("exec", _WORKER, "--container", "worker", "--", *command)
    yield from printed.splitlines()


def beside_dev(
    folder: DevFolder, variables: Mapping[str, str], module: str, arguments: Sequence[str]
) -> Iterator[str]:
    """Gives the lines that a module prints beside the stack of `knit dev` in a folder.

    Raises:
        CliError: the stack does not run, or the module ended early.
    """
    needs = "its database and its Temporal are needed"
    environment = environment_beside(folder, variables, needs=needs)
    command = [sys.executable, "-P", "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode != 0:
        raise CliError(f"{module} ended early", advice="see the messages above")


def read(lines: Iterator[str], report: Report) -> Iterator[dict[str, Any]]:
    """Reads the lines into the report, and gives each finding.

    Raises:
        CliError: it could not begin, or what was printed is of another knit.
    """
    for line in lines:
        try:
            [(kind, value)] = json.loads(line).items()
        except (ValueError, AttributeError) as cause:
            raise _odd() from cause
        match kind:
            case "finding":
                report.findings.append(value)
                yield value
            case "repaired":
                report.repaired.append(value)
            case "not_repaired":
                report.not_repaired.append(value)
            case "counted":
                report.counted = value
            case "problem":
                raise CliError(
                    "nothing can be verified", reason=value["reason"], advice=value["advice"]
                )
            case _:
                raise _odd()
    if report.counted is None:
        raise CliError("the verification was cut", advice="repeat it")


def _odd() -> CliError:
    return CliError(
        "the verification answers in another form", advice="is what is installed of this version?"
    )
