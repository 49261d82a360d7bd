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
_WITHOUT_DNS: Final = """\
#!/bin/sh
address() {{
  kubectl --kubeconfig {kubeconfig} --namespace {namespace} get service "$1" \\
    --ignore-not-found --output jsonpath='{{.spec.clusterIP}}' </dev/null
}}
case " $* " in
  *" upgrade --install knit-temporal "*)
    set -- "$@" --set "database.service=$(address database)" ;;
  *" upgrade --install knit-app "*)
    set -- "$@" --set "database.service=$(address database)"
    temporal=$(address temporal-frontend)
    if [ -n "$temporal" ]; then set -- "$@" --set "temporal.address=$temporal:7233"; fi ;;
esac
exec {helm} "$@"
"""


@dataclass
class Administrator:
    """Somebody with a kubeconfig, helm and `knit`, in a folder of their own."""

    helm: Path
    home: Path
    namespace: str
    variables: dict[str, str] = field(default_factory=dict)
    settings: str = "knit-install-settings"

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
        return self.home / self.settings

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
        """Asks until there is something; on a busy node a part may be slow to answer."""
        ends = time.monotonic() + WITHIN
        while True:
            process = self.start(*arguments)
            out, err = process.communicate()
            if process.returncode == 0 and (found := json.loads(out)):
                return found
            assert time.monotonic() < ends, f"{arguments} found nothing in time\n{out}\n{err}"
            time.sleep(0.5)


def helm_without_dns(helm: Path, kubeconfig: Path, namespace: str, home: Path) -> Path:
    """Makes a helm, in a folder, for a node on which no names of Services are known.

    It tells the charts the addresses of those that are in the namespace.
    """
    made = home / "helm"
    made.write_text(_WITHOUT_DNS.format(kubeconfig=kubeconfig, namespace=namespace, helm=helm))
    made.chmod(0o700)
    return made
