"""How Runs are created and carried out: the store, the engine, its queues, versions, hooks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from knit_workflows import names
from knit_workflows.settings.forms import Grace, Group, Span


class StoreSettings(Group):
    """Where Data, Plans, Runs and lineage are kept."""

    url: SecretStr = SecretStr("postgresql://localhost/knit")
    """A PostgreSQL URL."""
    application_role: str | None = None
    """The database role as which all other processes connect; `python -m knit_workflows.store`,
    which connects as the owner, grants it what they need. It cannot change the audit log. None:
    they connect as the owner."""
    pool_size: int = Field(default=8, ge=2)
    """The most connections a process holds, besides one for notifications."""
    folder: Path | None = None
    """Data folder of the database, if it is on this machine; errors then say when its disk is
    full."""
    reserve: Path | None = None
    """File on that disk that is shortened to make space for stops and deletions when it is full."""


_HEARTBEAT_PER_ACTIVE_RUN: Final = timedelta(milliseconds=30)
"""A heartbeat is a write of Temporal's: so those of all Runs are some 40 a second."""
_LONGEST_HEARTBEAT: Final = timedelta(minutes=2)


class EngineSettings(Group):
    """How Runs are created, admitted and executed."""

    max_active_runs: int | None = Field(default=None, ge=1)
    """The most Runs that are active at once, on one machine fewer while a user waits for a
    transfer or a stop; others wait. None: what the back-end suggests."""
    max_active_runs_per_plan: int | None = Field(default=None, ge=1)
    """The same for each Plan. None: no limit."""
    hold: str = ""
    """Why no Run is admitted, in words for users whose Runs wait; what is under way goes on. Empty:
    nothing prevents it. `knit admin freeze` sets it for a while."""
    new_runs_limit: int = Field(default=10_000, ge=1)
    """A Plan that would create more Runs than this at once needs a confirmation."""
    page_size: int = Field(default=500, ge=1)
    """The most Runs that are created in one transaction."""
    poll_interval: Span = timedelta(seconds=15)
    """How often the Projector looks for work without a notification, a worker whether Temporal has
    lost what it knew, and those who await a Run whether it is final, where too many await one."""
    heartbeat: Span = timedelta(seconds=20)
    """Heartbeat timeout of activities: a worker that is silent for longer is considered dead, and
    its watches move to another. Heartbeats are sent three times as often, so that a worker that
    stalls for less than two thirds of this time keeps its watches. For activities of Runs it is 30
    ms for each Run of `max_active_runs`, if that is longer, and 2 minutes at most."""
    step_timeout: Span = timedelta(seconds=10)
    """How long a killed worker may delay a Run's next step."""
    cached_workflows: int = Field(default=1_000, ge=10)
    """How many workflows a worker of the role `engine` keeps in memory, at some 90 KiB each. With
    fewer than there are active Runs, the next step of a Run may cost a replay of its history: a
    third more processor time in all, and more work for Temporal."""
    projector_heartbeat: Span = timedelta(seconds=5)
    """Heartbeat timeout of the Projector; shorter, because all Runs wait for it."""
    image_pull_deadline: Grace = timedelta(seconds=20)
    """A Run fails if its image still cannot be pulled after this time."""
    start_deadline: Grace = timedelta(minutes=10)
    """A Run fails if its pod still cannot start after this time: mounts, network, sandbox."""
    refused_deadline: Grace = timedelta(seconds=30)
    """A Run fails if a rule of the cluster still forbids its pod after this time: a LimitRange, a
    Pod Security Standard, an admission webhook. A quota that is used up is waited for."""
    stop_grace: Grace = timedelta(seconds=5)
    """Time between SIGTERM and SIGKILL when a container is stopped."""
    stop_retry_interval: Span = timedelta(seconds=10)
    """How long after the end of that time a pod that is still there is stopped again."""
    disruption_limit: int = Field(default=3, ge=0)
    """How often a Run is launched again by itself after its pod was evicted, preempted, drained or
    lost with its node. 0: it fails. A Plan's `pod.relaunches` goes before this."""
    oom_kill_fails: bool = False
    """Whether a Run fails in which a process was killed for memory although its container ended
    with 0, as a shell does whose last command succeeds. Otherwise that is only noted."""
    short_run_wait: Grace = timedelta(seconds=1)
    """How long the launch of a Run stays to see its end: a Run that is over by then costs Temporal
    one step instead of two."""
    import_window: Span = timedelta(minutes=30)
    """How long an importer may take to make its volume; then the import fails."""
    import_key_life: Span = Field(default=timedelta(hours=3), validate_default=True)
    """How long a key verifies the tokens of imports. It signs until it would not outlive them, so
    this must be longer than `import_window`."""
    transfer_lease: Span = timedelta(seconds=60)
    """A transfer is aborted when its client has been silent for this long."""
    transfer_linger: Grace = timedelta(seconds=15)
    """How long a transfer pod stays after the last download from it: the next one of the same Data
    starts at once. `PT0S`: not at all."""
    open_deadline: Span = timedelta(seconds=60)
    """How long a transfer may take to open: for its pod to start, on Kubernetes. Then it ends with
    the reason. Raise it where nodes are added on demand."""
    gc_interval: Span = timedelta(minutes=1)
    """How often discarded volumes are deleted, and lost or orphaned objects reconciled."""
    gc_grace_period: Grace = timedelta(minutes=5)
    """Objects younger than this are never touched by garbage collection and reconciliation."""
    full_disk_grace_period: Grace = timedelta(seconds=5)
    """The same for discarded volumes while the back-end is short of disk space."""

    @field_validator("import_key_life")
    @classmethod
    def _outlives_tokens(cls, life: timedelta, info: ValidationInfo) -> timedelta:
        if life <= info.data.get("import_window", timedelta()):
            raise ValueError("must be longer than the import window")
        return life

    @property
    def run_heartbeat(self) -> timedelta:
        """Gives the heartbeat timeout of the activities of Runs, which may be thousands."""
        wanted = min(_HEARTBEAT_PER_ACTIVE_RUN * (self.max_active_runs or 0), _LONGEST_HEARTBEAT)
        return max(self.heartbeat, wanted)


class QueueSettings(Group):
    """Names of the Temporal task queues; API and workers must agree on them."""

    engine: str = names.ENGINE_QUEUE
    """Workflows and the Projector."""
    compute: str = names.COMPUTE_QUEUE
    """Activities that use the compute back-end; only their workers need rights on it."""
    watch: str = names.WATCH_QUEUE
    """Watches: many and long-running, so they have slots of their own."""
    interactive: str = names.INTERACTIVE_QUEUE
    """Transfers and stops, which somebody waits for: they must not queue behind Runs."""
    hooks: str = names.HOOKS_QUEUE
    """Calls of lifecycle hooks, which may take long: only their Runs must wait for them."""
    backup: str = names.BACKUP_QUEUE
    """Backups that a schedule takes; their workers reach the destination."""

    @classmethod
    def single(cls, name: str) -> QueueSettings:
        """Gives one queue for everything, served by one Worker."""
        return cls(engine=name, compute=name, watch=name, interactive=name, hooks=name, backup=name)


class VersioningSettings(Group):
    """Temporal's worker versioning: a Run ends with workers of the version that it began with."""

    build_id: str = Field(default="", max_length=255)
    """The version of this worker. Empty: workers have no versions, and any worker goes on with any
    Run."""
    deployment_name: str = Field(default="knit", pattern=r"^[^.:]+$", max_length=255)
    """What Temporal calls the workers of all versions together."""
    draining: bool = False
    """Whether this worker only ends what its version has begun: it never makes its version the one
    with which Runs begin, and leaves schedules to workers of that one."""

    @field_validator("draining")
    @classmethod
    def _has_a_version(cls, draining: bool, info: ValidationInfo) -> bool:
        if draining and not info.data.get("build_id"):
            raise ValueError("a worker that drains has a version: set KNIT_VERSIONING__BUILD_ID")
        return draining


class HookSettings(Group):
    """Lifecycle hooks; read by workers with the role `hooks`."""

    file: Path | None = None
    """The hooks file; followed, so that a change needs no restart. None: there are no hooks."""
    secrets_file: Path | None = None
    """File with one secret (`whsec_…`) per line, at most two, with which calls are signed; read for
    each call. None: calls are not signed."""
    ca_file: Path | None = None
    """PEM file of certificate authorities that are trusted besides the system's; read for each
    call."""
    timeout: Span = timedelta(seconds=30)
    """How long one call may take in all, from resolving the name to the last byte of the
    answer."""
    max_answer_bytes: int = Field(default=1 << 20, ge=1)
    """A call whose answer is longer has failed."""
    proxies: bool = True
    """Whether calls go through the proxies that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY
    name."""
    allow_loopback: bool = False
    """Whether hooks may be on this machine; `knit dev` sets it."""
