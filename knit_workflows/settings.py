"""Settings of knit's processes, read once from the environment (`KNIT_…`) and passed on.

Temporal's own address, namespace and TLS are not here: they come from `temporalio.envconfig`
(`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, …).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from knit_workflows import names
from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.quantities import canonical_quantity
from knit_workflows.log import LogFormat

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_PREFIX: Final = "KNIT_"
_BETWEEN: Final = "__"
_SPAN = Annotated[timedelta, Field(gt=timedelta())]
_GRACE = Annotated[timedelta, Field(ge=timedelta())]


class StoreSettings(BaseModel):
    """Where Data, Plans, Runs and lineage are kept."""

    model_config = ConfigDict(frozen=True)

    url: SecretStr = SecretStr("postgresql://localhost/knit")
    """A PostgreSQL URL."""
    pool_size: int = Field(default=8, ge=2)
    """Connections a process holds at most, besides one that listens."""
    folder: Path | None = None
    """Folder of the database, if it is on this machine: when its disk is full, errors say so."""
    reserve: Path | None = None
    """File on that disk whose room stops and deletions may use when the disk is full."""


class EngineSettings(BaseModel):
    """How Runs are projected, admitted and carried out."""

    model_config = ConfigDict(frozen=True)

    max_active_runs: int | None = Field(default=None, ge=1)
    """Runs under way at once at most, on one machine fewer while somebody waits for a transfer or a
    stop; the others wait as rows. None: as many as suit the back-end."""
    max_active_runs_per_plan: int | None = Field(default=None, ge=1)
    new_runs: int = Field(default=10_000, ge=1)
    """A Plan that would at once create more Runs than this is refused until confirmed."""
    page_size: int = Field(default=500, ge=1)
    """Runs created in one transaction at most."""
    fallback: _SPAN = timedelta(seconds=15)
    """How long the Projector waits for a notification before it looks by itself."""
    heartbeat: _SPAN = timedelta(seconds=20)
    """A worker that has been silent for so long is taken for dead, its watches go elsewhere.

    One that works says so three times as often: frozen for less than two thirds of it, it keeps
    them.
    """
    step_timeout: _SPAN = timedelta(seconds=10)
    """How long a worker that was killed may hold a Run's next step."""
    projector_heartbeat: _SPAN = timedelta(seconds=5)
    """The same for the one Projector, whose absence everybody notices."""
    image_patience: _GRACE = timedelta(seconds=20)
    """A Run whose image cannot be had fails after this time."""
    transient_patience: _GRACE = timedelta(minutes=10)
    """A Run whose pod cannot start for mounts, network or sandbox fails after this time."""
    stop_grace: _GRACE = timedelta(seconds=5)
    """What a stopped container gets between SIGTERM and SIGKILL."""
    transfer_lease: _SPAN = timedelta(seconds=60)
    """A transfer whose client has been silent for so long is aborted."""
    tidy_every: _SPAN = timedelta(minutes=1)
    """How often discarded volumes are deleted, and what was lost or left behind is looked for."""
    tidy_grace: _GRACE = timedelta(minutes=5)
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
    floor: int = Field(default=256 << 20, ge=0)
    """Bytes that must be free on the disk of `state`, or a twentieth of it if that is less: below,
    uploads are refused and new Runs wait."""


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

    @field_validator("initial_capacity")
    @classmethod
    def _is_quantity(cls, text: str) -> str:
        try:
            canonical_quantity(text)
        except InvalidQuantity as cause:
            raise ValueError(cause.reason) from cause
        return text


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
        env_prefix=_PREFIX, env_nested_delimiter=_BETWEEN, frozen=True, extra="ignore"
    )

    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    compute: ComputeSettings = ComputeSettings()
    queues: QueueSettings = QueueSettings()
    log_format: LogFormat = "auto"
    log_level: LogLevel = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, text: object) -> object:
        return text.upper() if isinstance(text, str) else text


class SettingsRefused(Exception):
    """A variable of the environment has a value that it cannot have; the message says which."""


def read_settings() -> Settings:
    """Read the environment; raises SettingsRefused, in words for who has set it."""
    try:
        return Settings()
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)]
    except SettingsError as error:
        faults = [f"{error}: write its parts as {_PREFIX}GROUP{_BETWEEN}NAME, or all as JSON"]
    advice = "correct it, or leave it out; docs/reference/settings.md has them all"
    raise SettingsRefused(f"{'; '.join(faults)}; {advice}") from None


def _fault(error: ErrorDetails) -> str:
    """Name the variable and what it says, but never the value of one that may hold a secret."""
    variable = _PREFIX + _BETWEEN.join(str(part) for part in error["loc"]).upper()
    value = error["input"]
    shown = f" is {value!r}" if isinstance(value, str) and "URL" not in variable else ""
    return f"{variable}{shown}: {error['msg'].removeprefix('Value error, ')}"
