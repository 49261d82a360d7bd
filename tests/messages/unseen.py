"""Texts that the quick tests do not bring about, by module: a part of each, and why that is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_CLUSTER: Final[Mapping[str, Sequence[str]]] = {
    "knit_workflows.compute.kubernetes.server": (
        "has to be read anew", "(VersionGone)", "the watch broke",
    ),
    "knit_workflows.compute.kubernetes.stalled": ("all are Bound", "Pulling an image"),
    "knit_workflows.compute.kubernetes.transfers": ("an earlier door to it",),
    "knit_workflows.compute.kubernetes.start_failures": ("no node takes the pod",),
    "knit_workflows.pod.kube_api": ("cannot prepare a connection", "the connection was cut"),
    "knit_workflows.pod.log_sidecar": ("the watch sent no event", "the watch failed"),
}  # fmt: skip
"""The tier on the real node does."""

_SLOW: Final[Mapping[str, Sequence[str]]] = {
    "knit_api.transfers.remote_volume": ("(StorageFull)",),
    "knit_api.responses": ("the client no longer takes anything",),
    "knit_api.server.streams": ("(BodyAborted)",),
    "knit_api.transfers.upload_body": ("the client sent nothing for too long",),
    "knit_workflows.activities.pending_reasons": (
        "is no longer pending",
        "cannot record",
        "was not signalled",
    ),
    "knit_workflows.activities.housekeeping": ("run pod is not removed", "(EngineUnavailable)"),
    "knit_workflows.activities.runs": ("refused by the compute", "run pod is still there"),
    "knit_workflows.activities.search_attributes": ("search attributes cannot be listed",),
    "knit_workflows.activities.run_starter": ("did not take a Run", "has ended already"),
    "knit_workflows.client": ("(EngineUnavailable)", "the transfer is over"),
    "knit_workflows.pod.idle_timer": ("(Ending)",),
    "knit_workflows.store.connection": ("connections to the database are busy",),
    "knit_workflows.worker": ("worker is ready", "worker stops"),
    "knit_workflows.workflows.run": ("(CancelledError)",),
    "knit_workflows.workflows.transfer": ("its lease ran out",),
}
"""The slow tier does: it kills processes, fills disks and waits for time-outs."""

_MACHINE: Final[Mapping[str, Sequence[str]]] = {
    "knit_workflows.compute.local.backend": ("cannot be stopped", "could not empty the trash"),
    "knit_workflows.compute.local.engine": ("did not answer within", "cannot be removed"),
    "knit_workflows.compute.local.folders": ("belongs to another user", "remove it as that user"),
    "knit_workflows.compute.local.launching": ("is being started by another process",),
    "knit_workflows.compute.local.notices": (
        "needs Linux", "workers on Linux", "cannot watch", "refuses to watch",
    ),
    "knit_workflows.archive.packer": ("it was replaced while being read",),
    "knit_workflows.archive.unpacker": ("could not be removed",),
}  # fmt: skip
"""Only a machine that is broken, or not Linux, does."""

UNSEEN: Final[Mapping[str, Sequence[str]]] = {**_CLUSTER, **_SLOW, **_MACHINE}
