"""`system-unfreeze.sh`: what a thaw does, as a shell script that needs kubectl alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.freezing.record import HOLD, RECORD, Parts, Record
from knit_cli.errors import BadInput
from knit_workflows.domain.os_errors import advice_for, reason_of

NAME: Final = "system-unfreeze.sh"
_HEAD: Final = """\
#!/bin/sh
# Thaws the knit in namespace {namespace}, frozen at {since} by {by}.
# It may be repeated. `knit admin thaw` does the same, and waits until everything is ready.
set -eu
NAMESPACE=${{NAMESPACE:-{quoted}}}
KUBECTL=${{KUBECTL:-kubectl}}
"""
_KUBECONFIG: Final = """\
if [ -z "${{KUBECONFIG:-}}" ] && [ -f {path} ]; then
  KUBECONFIG={path}
  export KUBECONFIG
fi
"""
# First: a freeze that still waits elsewhere would end what is started here, and one that comes
# after a script that was cut would not wait for what has begun in between.
_MARK: Final = """\
record=$({kubectl} get configmap {record} --ignore-not-found --output name)
if [ -n "$record" ]; then
  {kubectl} patch configmap {record} --type merge --patch '{{"data":{{{reset}}}}}'
fi
"""
_RESET: Final = '"atRest":"false","thawing":"true"'
_COMMAND: Final = '$KUBECTL --namespace "$NAMESPACE"'


def script(cluster: Cluster, parts: Parts, record: Record) -> str:
    """Gives its text."""
    text = _HEAD.format(
        namespace=cluster.namespace,
        since=record.since.isoformat(),
        by=" ".join(record.by.split()),
        quoted=shlex.quote(cluster.namespace),
    )
    if cluster.kubeconfig is not None:
        text += _KUBECONFIG.format(path=shlex.quote(str(cluster.kubeconfig)))
    text += _MARK.format(kubectl=_COMMAND, record=RECORD, reset=_RESET)
    lines = [f"set env {parts.engine.workload} {HOLD}-"]
    lines += [
        f"scale {one.workload} --replicas={record.replicas.get(one.name, one.replicas)}"
        for one in parts
    ]
    lines.append(f"delete configmap {RECORD} --ignore-not-found")
    return text + "".join(f"{_COMMAND} {line}\n" for line in lines)


def write_script(path: Path, text: str) -> None:
    """Writes it, executable, over one of an earlier freeze.

    Raises:
        BadInput: it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
        fresh.chmod(0o755)
        fresh.replace(path)
    except OSError as cause:
        fresh.unlink(missing_ok=True)
        raise BadInput(
            f"cannot write {path}", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
