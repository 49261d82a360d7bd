"""Settings of knit's processes, read once from the environment (`KNIT_…`) and passed on.

Temporal's own address, namespace and TLS are not here: they come from `temporalio.envconfig`
(`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, …).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from knit_workflows import names
from knit_workflows.log import LogFormat


class StoreSettings(BaseModel):
    """Where Data, Plans, Runs and lineage are kept."""

    model_config = ConfigDict(frozen=True)

    url: SecretStr = SecretStr("postgresql://localhost/knit")
    """A PostgreSQL URL."""
    pool_size: int = Field(default=8, ge=2)
    """Connections a process holds at most, besides one that listens."""


class EngineSettings(BaseModel):
    """How Runs are projected, admitted and carried out."""

    model_config = ConfigDict(frozen=True)

    max_active_runs: int | None = Field(default=None, ge=1)
    """Runs under way at once; the others wait as rows. None: as many as suit the back-end."""
    max_active_runs_per_plan: int | None = Field(default=None, ge=1)
    new_runs: int = Field(default=10_000, ge=1)
    """A Plan that would at once create more Runs than this is refused until confirmed."""
    page_size: int = Field(default=500, ge=1)
    """Runs created in one transaction at most."""
    fallback: timedelta = timedelta(seconds=15)
    """How long the Projector waits for a notification before it looks by itself."""
    heartbeat: timedelta = timedelta(seconds=20)
    """A worker that has been silent for so long is taken for dead, its watches go elsewhere.

    One that works says so three times as often: frozen for less than two thirds of it, it keeps
    them.
    """
    step_timeout: timedelta = timedelta(seconds=10)
    """How long a worker that was killed may hold a Run's next step."""
    projector_heartbeat: timedelta = timedelta(seconds=5)
    """The same for the one Projector, whose absence everybody notices."""
    image_patience: timedelta = timedelta(seconds=20)
    """A Run whose image cannot be had fails after this time."""
    transient_patience: timedelta = timedelta(minutes=10)
    """A Run whose pod cannot start for mounts, network or sandbox fails after this time."""
    stop_grace: timedelta = timedelta(seconds=5)
    """What a stopped container gets between SIGTERM and SIGKILL."""
    transfer_lease: timedelta = timedelta(seconds=60)
    """A transfer whose client has been silent for so long is aborted."""
    tidy_every: timedelta = timedelta(minutes=1)
    """How often discarded volumes are deleted, and what was lost or left behind is looked for."""
    tidy_grace: timedelta = timedelta(minutes=5)
    """What is younger is never touched when tidying up."""


class LocalComputeSettings(BaseModel):
    """The local back-end: containers and sandboxes on this machine."""

    model_config = ConfigDict(frozen=True)

    state: Path = Path(".knit")
    engine: str = "auto"
    """`auto`, `none`, or the command of a container engine."""
    host_paths: tuple[Path, ...] = ()
    """Further folders of this machine that `host/…` images see, read-only."""
    network: bool = True
    """Whether tasks may use the network."""


class KubernetesComputeSettings(BaseModel):
    """The Kubernetes back-end."""

    model_config = ConfigDict(frozen=True)

    kubeconfig: Path | None = None
    """None: the rights of the pod this process runs in."""
    kube_namespace: str = "default"
    storage_class: str | None = None
    initial_capacity: str = "1Gi"
    pod_image: str = "knit-pod:latest"
    priority_class: str | None = None
    restricted: bool = False
    """Whether run pods must satisfy the restricted Pod Security Standard (non-root)."""


class ComputeSettings(BaseModel):
    """Where run pods and volumes live."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["local", "kubernetes", "memory"] = "local"
    """`memory` is for tests and benches: Runs end at once, without running anything."""
    local: LocalComputeSettings = LocalComputeSettings()
    kubernetes: KubernetesComputeSettings = KubernetesComputeSettings()
    memory_journal: Path | None = None
    """Folder in which the memory back-end keeps what outlives its process."""


class QueueSettings(BaseModel):
    """Names of the Temporal task queues; API and workers must agree on them."""

    model_config = ConfigDict(frozen=True)

    engine: str = names.ENGINE_QUEUE
    """Workflows and the Projector."""
    compute: str = names.COMPUTE_QUEUE
    """What touches the compute back-end; only these workers need its rights."""
    watch: str = names.WATCH_QUEUE
    """Watches: long and many, so they have slots of their own."""
    interactive: str = names.INTERACTIVE_QUEUE
    """What somebody waits for: transfers and stops, which must not queue behind Runs."""

    @classmethod
    def single(cls, name: str) -> QueueSettings:
        """Give everything one queue: for one Worker that does all."""
        return cls(engine=name, compute=name, watch=name, interactive=name)


class Settings(BaseSettings):
    """All of a process; nested fields by two underscores: `KNIT_STORE__URL`."""

    model_config = SettingsConfigDict(
        env_prefix="KNIT_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    compute: ComputeSettings = ComputeSettings()
    queues: QueueSettings = QueueSettings()
    log_format: LogFormat = "auto"
    log_level: str = "INFO"
