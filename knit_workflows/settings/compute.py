"""Back-ends: where run pods and volumes live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.option_forms import INSTALLED, parse_pod
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.domain.volumes import AccessMode
from knit_workflows.settings.forms import Grace, Group, Span, checked_quantity


class LocalSettings(Group):
    """The local back-end: containers and sandboxes on this machine."""

    state: Path = Path(".knit")
    """Folder that holds volumes, logs and pods, on a local disk. Move it only while no pod runs."""
    engine: str = "auto"
    """`auto` (the first of docker, podman, nerdctl that answers), `none`, or the command of a
    container engine."""
    host_images: bool = True
    """Whether `host/…` images may run: commands of the machine itself, in a bubblewrap sandbox."""
    host_paths: tuple[Path, ...] = ()
    """More folders of this machine that `host/…` images see, read-only, besides `/usr`, `/etc` and
    knit's own Python."""
    adoptable: tuple[Path, ...] = (Path("/"),)
    """Folders below which users may adopt folders as Data. Whoever reaches the API can then read
    what the worker can read there, so name them where others use it too."""
    network: bool = True
    """Whether run pods may use the network."""
    min_free_bytes: int = Field(default=256 << 20, ge=0)
    """Bytes that must be free on the disk of `state`, or a twentieth of the disk if that is less.
    With less, uploads are refused and new Runs wait."""
    resync_period: Span = timedelta(seconds=30)
    """How often a watch reads the state of its pod without a notification."""
    stalled_after: Span = timedelta(seconds=20)
    """A pending pod is reported as stalled after this time without any report of its supervisor."""
    environment: Mapping[str, str] = Field(default_factory=lambda: dict(os.environ), repr=False)
    """Environment of the container engine's command (its socket, its context), as JSON; never that
    of run pods. Not set: that of the worker."""


class KubernetesSettings(Group):
    """The Kubernetes back-end: one namespace of one cluster."""

    kubeconfig: Path | None = None
    """None: the service account of the pod this process runs in."""
    kube_namespace: str = "default"
    """Where Jobs, claims and transfer pods are created."""
    storage_class: str | None = None
    """None: the cluster's default class. It must provide volumes of the access mode."""
    access_mode: AccessMode = "ReadWriteMany"
    """Of each claim. With `ReadWriteOnce`, Runs and transfers of one Data must be on one node."""
    initial_capacity: str = "1Gi"
    """What each claim requests."""
    pod_image: str = "knit-pod:latest"
    """The image with `knit_workflows.pod`; knit's own containers use it."""
    pod_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """`imagePullPolicy` of knit's own containers. None: the cluster's default."""
    program_requests: Mapping[str, str] = {"cpu": "10m", "memory": "16Mi"}
    """What each container with knit's static program requests in run pods, as JSON:
    `{"cpu": "10m"}`."""
    program_limits: Mapping[str, str] = {"memory": "64Mi"}
    """What each of them may use: the program takes 3 MiB, the rest is for pages of the log that are
    not on the disk yet. A quota or LimitRange may demand more names, such as `cpu`."""
    log_reader_requests: Mapping[str, str] = {"cpu": "50m", "memory": "100Mi"}
    """What the container that reads a log from the API server requests."""
    log_reader_limits: Mapping[str, str] = {"memory": "100Mi"}
    """What it may use. With less than a tenth of a core it takes seconds to start."""
    transfer_requests: Mapping[str, str] = {"cpu": "50m", "memory": "100Mi"}
    """What the container of a transfer pod requests."""
    transfer_limits: Mapping[str, str] = {"memory": "256Mi"}
    """What it may use."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets with which the images of run and transfer pods are pulled, as JSON: `["regcred"]`."""
    supervise: bool = True
    """Whether a static program of knit starts the command of Plans with `entrypoint`, and writes
    their logs. If not, their logs too are read from the API server, which loses what a node rotates
    away, and their outputs are checked by an init container, which takes a second more."""
    log_service_account: str = "knit-nurse"
    """ServiceAccount with which the log sidecar reads logs; see
    `python -m knit_workflows.compute.kubernetes`."""
    priority_class: str | None = None
    """PriorityClass of run pods. None: the cluster's default."""
    run_pods: PodOptions = PodOptions()
    """What all run pods get, in the form of a Plan's `pod`, as JSON: `{"labels": {"team": "x"}}`.
    A Plan's own options go before these."""
    plan_pod_keys: tuple[str, ...] | None = None
    """Which keys of `pod` Plans may have, as JSON: `["labels", "shm_size"]`. The API, which must
    know it too, refuses others; Runs of Plans that have them already fail. None: all of them."""
    ephemeral_storage: str | None = None
    """How much a Plan's container may write outside of its volumes, unless the Plan's
    `ephemeral-storage` says so. None: as the cluster says."""
    restricted: bool = False
    """Whether pods must satisfy the restricted Pod Security Standard (non-root)."""
    run_as_user: int = Field(default=65532, ge=1)
    """User and group of every container if `restricted`."""
    expander_interval: Span = timedelta(seconds=5)
    """How often a worker with the role `expander` looks how full claims are."""
    expander_margin: str = "1Gi"
    """A claim that is written to and has less than this left is expanded."""
    expander_delta: str = "5Gi"
    """By how much."""
    expander_most: str | None = None
    """No claim is expanded beyond this. None: only the storage ends it."""
    volume_folders: str | None = None
    """Where API and interactive workers have the folders of claims, if they do, with `{pv}`,
    `{claim}`, `{namespace}` for what differs: `/mnt/share/{pv}`. Downloads and logs are then read
    there, with the rights of the API's user, and need no pod. None: each needs one."""
    transfer_port: int = Field(default=18082, ge=1, le=65535)
    """Port on which transfer pods listen."""
    warm_transfers: int = Field(default=0, ge=0, le=50)
    """How many empty claims wait for uploads, each with a transfer pod that is up: a push takes one
    instead of waiting for a pod. Each requests what a transfer pod and a claim do."""
    version: str | None = None
    """Value of the label `app.kubernetes.io/version`. None: knit's version."""
    request_timeout: Span = timedelta(seconds=15)
    """How long the API server may take between two parts of a response."""
    resync_period: Span = timedelta(seconds=60)
    """How soon a watch asks for its pod without a notification. Each answer that is no news doubles
    this, up to ten times as long."""
    pending_resync_period: Span = timedelta(seconds=3)
    """How often it looks whether a pod has started, or why it has not, in what has been heard. A
    Job without a pod is asked for as soon, then ever later, up to `resync_period`."""
    stalled_after: Span = timedelta(seconds=30)
    """After this time without any reason reported for a pending pod, knit looks for one."""
    unavailable_after: Span = timedelta(seconds=60)
    """How long a watch tolerates an unreachable API server before it fails."""
    foreign_container_grace: Grace = timedelta(seconds=10)
    """How long containers that knit has not put into a run pod, such as a mesh's, may go on after
    the end of its own. Then the Run ends, with a note, and the pod is removed."""

    @field_validator("run_pods", mode="before")
    @classmethod
    def _as_in_plans(cls, value: Any) -> PodOptions:
        if isinstance(value, PodOptions):
            return value
        try:
            return parse_pod(value, INSTALLED)
        except InvalidPlan as cause:
            raise ValueError(f"{cause.reason}; {cause.advice}") from cause

    @field_validator("plan_pod_keys")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [one.name for one in fields(PodOptions)]
        if unknown := sorted(set(keys or ()) - set(known)):
            raise ValueError(f"there is no {unknown[0]!r}; the keys are {', '.join(known)}")
        return keys

    @field_validator("volume_folders")
    @classmethod
    def _is_a_folder_per_claim(cls, form: str | None) -> str | None:
        if form is None:
            return None
        try:
            one, other = (form.format(pv=it, claim=it, namespace="n") for it in ("a", "b"))
        except (LookupError, ValueError, AttributeError) as cause:
            raise ValueError("only {pv}, {claim} and {namespace} are known") from cause
        if not one.startswith("/") or one == other:
            raise ValueError("an absolute path with {pv} or {claim}, such as /mnt/share/{pv}")
        return form

    @field_validator(
        "initial_capacity",
        "ephemeral_storage",
        "expander_margin",
        "expander_delta",
        "expander_most",
    )
    @classmethod
    def _is_quantity(cls, text: str | None) -> str | None:
        return None if text is None else checked_quantity(text)

    @field_validator(
        "program_requests",
        "program_limits",
        "log_reader_requests",
        "log_reader_limits",
        "transfer_requests",
        "transfer_limits",
    )
    @classmethod
    def _are_quantities(cls, resources: Mapping[str, str]) -> Mapping[str, str]:
        return {name: checked_quantity(quantity) for name, quantity in resources.items()}

    @model_validator(mode="after")
    def _requests_fit(self) -> Self:
        for which, requests, limits in (
            ("program", self.program_requests, self.program_limits),
            ("log_reader", self.log_reader_requests, self.log_reader_limits),
            ("transfer", self.transfer_requests, self.transfer_limits),
        ):
            for name in sorted(requests.keys() & limits.keys()):
                if parse_quantity(requests[name]) > parse_quantity(limits[name]):
                    raise ValueError(
                        f"{which}_requests: {name} {requests[name]} is more than "
                        f"{which}_limits allow, {limits[name]}"
                    )
        return self


class ComputeSettings(Group):
    """Where run pods and volumes live."""

    kind: Literal["local", "kubernetes", "memory"] = "local"
    """`memory` is for tests and benches: Runs succeed at once, nothing is run."""
    local: LocalSettings = Field(default_factory=LocalSettings)
    kubernetes: KubernetesSettings = KubernetesSettings()

    @property
    def plan_pod_keys(self) -> tuple[str, ...] | None:
        """Which keys of `pod` Plans may have where Runs are carried out; None: all."""
        return self.kubernetes.plan_pod_keys if self.kind == "kubernetes" else None
