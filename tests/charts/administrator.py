"""An administrator with `knit`, real helm and real kubectl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from knit_cli.admin.installing.installation import merged

WITHIN: Final = 400.0


@dataclass
class Administrator:
    """Somebody with a kubeconfig, helm and `knit`, in a folder of their own."""

    helm: Path
    home: Path
    namespace: str
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        own = {"HOME": str(self.home), "HELM": str(self.helm)}
        return subprocess.Popen(
            [sys.executable, "-m", "knit_cli", *arguments],
            cwd=self.home,
            env={"PATH": os.environ["PATH"], **own, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def knit(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == code, f"{arguments}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, code, out, err)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.knit(*arguments).stdout)

    @property
    def folder(self) -> Path:
        return self.home / "knit-install-settings"

    def edit(self, chart: str, values: dict[str, Any]) -> None:
        path = self.folder / "values" / f"{chart}.yaml"
        path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()) or {}, values)))

    def verified(self) -> Any:
        """Waits until `knit admin verify` finds nothing amiss; gives what it says.

        It looks at what is just happening, too: when a Run is done, its pod has still to go.
        """
        ends = time.monotonic() + WITHIN
        while True:
            process = self.start("admin", "verify", "--json", "--grace=0")
            out, err = process.communicate()
            if process.returncode == 0:
                return json.loads(out)
            assert time.monotonic() < ends, f"{out}\n{err}"
            time.sleep(0.5)

    def wait_for(self, *arguments: str) -> Any:
        ends = time.monotonic() + WITHIN
        while time.monotonic() < ends:
            if found := self.json(*arguments):
                return found
            time.sleep(0.5)
        raise AssertionError(f"{arguments} found nothing in time")
