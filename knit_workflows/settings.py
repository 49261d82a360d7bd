"""Settings of knit's processes, read once from the environment (`KNIT_…`) and passed on.

How to reach Temporal is not among them: see `temporal_client`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from knit_workflows import names
from knit_workflows.domain.accounts import Role
from knit_workflows.domain.errors import InvalidPlan, InvalidQuantity, InvalidTag
from knit_workflows.domain.plans.option_forms import INSTALLED, parse_pod
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.quantities import canonical_quantity, parse_quantity
from knit_workflows.domain.secure_urls import fault_of_url
from knit_workflows.domain.tags import parse_tag
from knit_workflows.domain.volumes import AccessMode
from knit_workflows.log import LogFormat

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_PREFIX: Final = "KNIT_"
_DELIMITER: Final = "__"
_SECRET: Final = re.compile("URL|SHA256")
"""Variables whose value is not shown."""
_Span = Annotated[timedelta, Field(gt=timedelta())]
_Grace = Annotated[timedelta, Field(ge=timedelta())]


class _Group(BaseModel):
    """A group of settings; a variable with its prefix that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreSettings(_Group):
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


class EngineSettings(_Group):
    """How Runs are created, admitted and executed."""

    max_active_runs: int | None = Field(default=None, ge=1)
    """The most Runs that are active at once, on one machine fewer while a user waits for a
    transfer or a stop; others wait. None: what the back-end suggests."""
    max_active_runs_per_plan: int | None = Field(default=None, ge=1)
    """The same for each Plan. None: no limit."""
    new_runs_limit: int = Field(default=10_000, ge=1)
    """A Plan that would create more Runs than this at once needs a confirmation."""
    page_size: int = Field(default=500, ge=1)
    """The most Runs that are created in one transaction."""
    poll_interval: _Span = timedelta(seconds=15)
    """How often the Projector looks for work without a notification."""
    heartbeat: _Span = timedelta(seconds=20)
    """Heartbeat timeout of activities: a worker that is silent for longer is considered dead, and
    its watches move to another. Heartbeats are sent three times as often, so that a worker that
    stalls for less than two thirds of this time keeps its watches."""
    step_timeout: _Span = timedelta(seconds=10)
    """How long a killed worker may delay a Run's next step."""
    projector_heartbeat: _Span = timedelta(seconds=5)
    """Heartbeat timeout of the Projector; shorter, because all Runs wait for it."""
    image_pull_deadline: _Grace = timedelta(seconds=20)
    """A Run fails if its image still cannot be pulled after this time."""
    start_deadline: _Grace = timedelta(minutes=10)
    """A Run fails if its pod still cannot start after this time: mounts, network, sandbox."""
    refused_deadline: _Grace = timedelta(seconds=30)
    """A Run fails if a rule of the cluster still forbids its pod after this time: a LimitRange, a
    Pod Security Standard, an admission webhook. A quota that is used up is waited for."""
    stop_grace: _Grace = timedelta(seconds=5)
    """Time between SIGTERM and SIGKILL when a container is stopped."""
    stop_retry_interval: _Span = timedelta(seconds=10)
    """How long after the end of that time a pod that is still there is stopped again."""
    disruption_limit: int = Field(default=3, ge=0)
    """How often a Run is launched again by itself after its pod was evicted, preempted, drained or
    lost with its node. 0: it fails. A Plan's `pod.relaunches` goes before this."""
    oom_kill_fails: bool = False
    """Whether a Run fails in which a process was killed for memory although its container ended
    with 0, as a shell does whose last command succeeds. Otherwise that is only noted."""
    short_run_wait: _Grace = timedelta(seconds=1)
    """How long the launch of a Run stays to see its end: a Run that is over by then costs Temporal
    one activity instead of three."""
    import_window: _Span = timedelta(minutes=30)
    """How long an importer may take to make its volume; then the import fails."""
    import_key_life: _Span = Field(default=timedelta(hours=3), validate_default=True)
    """How long a key verifies the tokens of imports. It signs until it would not outlive them, so
    this must be longer than `import_window`."""
    transfer_lease: _Span = timedelta(seconds=60)
    """A transfer is aborted when its client has been silent for this long."""
    open_deadline: _Span = timedelta(seconds=60)
    """How long a transfer may take to open: for its pod to start, on Kubernetes. Then it ends with
    the reason. Raise it where nodes are added on demand."""
    gc_interval: _Span = timedelta(minutes=1)
    """How often discarded volumes are deleted, and lost or orphaned objects reconciled."""
    gc_grace_period: _Grace = timedelta(minutes=5)
    """Objects younger than this are never touched by garbage collection and reconciliation."""
    full_disk_grace_period: _Grace = timedelta(seconds=5)
    """The same for discarded volumes while the back-end is short of disk space."""

    @field_validator("import_key_life")
    @classmethod
    def _outlives_tokens(cls, life: timedelta, info: ValidationInfo) -> timedelta:
        if life <= info.data.get("import_window", timedelta()):
            raise ValueError("must be longer than the import window")
        return life


class LocalSettings(_Group):
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
    resync_period: _Span = timedelta(seconds=30)
    """How often a watch reads the state of its pod without a notification."""
    stalled_after: _Span = timedelta(seconds=20)
    """A pending pod is reported as stalled after this time without any report of its supervisor."""
    environment: Mapping[str, str] = Field(default_factory=lambda: dict(os.environ), repr=False)
    """Environment of the container engine's command (its socket, its context), as JSON; never that
    of run pods. Not set: that of the worker."""


def _quantity(text: str) -> str:
    try:
        canonical_quantity(text)
    except InvalidQuantity as cause:
        raise ValueError(cause.reason) from cause
    return text


class KubernetesSettings(_Group):
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
    """Whether a static program of knit starts the command of Plans with `entrypoint` and `log`, and
    writes their logs. If not, their logs too are read from the API server, which loses what a node
    rotates away."""
    log_service_account: str = "knit-nurse"
    """ServiceAccount with which the log sidecar reads logs; see
    `python -m knit_workflows.compute.kubernetes`."""
    log_secret: str = "knit-nurse-secret"
    """Secret of type `kubernetes.io/service-account-token` with that account's token, for Plans
    with a `service_account` of their own; of others the token expires, and no Secret has it."""
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
    expander_interval: _Span = timedelta(seconds=5)
    """How often a worker with the role `expander` looks how full claims are."""
    expander_margin: str = "1Gi"
    """A claim that is written to and has less than this left is expanded."""
    expander_delta: str = "5Gi"
    """By how much."""
    expander_most: str | None = None
    """No claim is expanded beyond this. None: only the storage ends it."""
    transfer_port: int = Field(default=18082, ge=1, le=65535)
    """Port on which transfer pods listen."""
    warm_transfers: int = Field(default=0, ge=0, le=50)
    """How many empty claims wait for uploads, each with a transfer pod that is up: a push takes one
    instead of waiting for a pod. Each requests what a transfer pod and a claim do."""
    version: str | None = None
    """Value of the label `app.kubernetes.io/version`. None: knit's version."""
    request_timeout: _Span = timedelta(seconds=15)
    """How long the API server may take between two parts of a response."""
    resync_period: _Span = timedelta(seconds=60)
    """How often a watch reads the state of its pod without a notification."""
    pending_resync_period: _Span = timedelta(seconds=3)
    """The same for a pod that has not started; read from the informer's cache, if that is fresh."""
    stalled_after: _Span = timedelta(seconds=30)
    """After this time without any reason reported for a pending pod, knit looks for one."""
    unavailable_after: _Span = timedelta(seconds=60)
    """How long a watch tolerates an unreachable API server before it fails."""
    foreign_container_grace: _Grace = timedelta(seconds=10)
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

    @field_validator(
        "initial_capacity",
        "ephemeral_storage",
        "expander_margin",
        "expander_delta",
        "expander_most",
    )
    @classmethod
    def _is_quantity(cls, text: str | None) -> str | None:
        return None if text is None else _quantity(text)

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
        return {name: _quantity(quantity) for name, quantity in resources.items()}

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


class ComputeSettings(_Group):
    """Where run pods and volumes live."""

    kind: Literal["local", "kubernetes", "memory"] = "local"
    """`memory` is for tests and benches: Runs succeed at once, nothing is run."""
    local: LocalSettings = Field(default_factory=LocalSettings)
    kubernetes: KubernetesSettings = KubernetesSettings()

    @property
    def plan_pod_keys(self) -> tuple[str, ...] | None:
        """Which keys of `pod` Plans may have where Runs are carried out; None: all."""
        return self.kubernetes.plan_pod_keys if self.kind == "kubernetes" else None


class ExtraApisSettings(_Group):
    """Paths of the API that other services serve; read by the API."""

    config: Path | None = None
    """File that lists them; `--extra-apis-config` takes precedence. It is read again when it
    changes. Not set: there are none."""
    connect_timeout: _Span = timedelta(seconds=5)
    """How long a service may take to accept a connection."""
    idle_timeout: _Span = timedelta(minutes=5)
    """A request ends when nothing has moved for this long: a service that does not respond, a
    client that sends or takes nothing."""
    keep_alive: _Grace = timedelta(seconds=4)
    """How long a connection to a service waits for another request; 0: each has one of its own."""
    max_requests: int = Field(default=256, ge=1)
    """The most requests that are forwarded at once; more are refused with 503."""


class HookSettings(_Group):
    """Lifecycle hooks; read by workers with the role `hooks`."""

    file: Path | None = None
    """The hooks file; followed, so that a change needs no restart. None: there are no hooks."""
    secrets_file: Path | None = None
    """File with one secret (`whsec_…`) per line, at most two, with which calls are signed; read for
    each call. None: calls are not signed."""
    ca_file: Path | None = None
    """PEM file of certificate authorities that are trusted besides the system's; read for each
    call."""
    timeout: _Span = timedelta(seconds=30)
    """How long one call may take in all, from resolving the name to the last byte of the
    answer."""
    max_answer_bytes: int = Field(default=1 << 20, ge=1)
    """A call whose answer is longer has failed."""
    proxies: bool = True
    """Whether calls go through the proxies that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY
    name."""
    allow_loopback: bool = False
    """Whether hooks may be on this machine; `knit dev` sets it."""


class AccountSettings(_Group):
    """Who may call the API, and as whom."""

    required: bool = True
    """Whether callers must authenticate. Without it the API listens on loopback addresses only.
    `knit dev` switches it off, unless this variable is set."""
    bootstrap_token_sha256: SecretStr | None = None
    """Hex SHA-256 of a token with the role admin, for the first steps after an installation. None:
    there is none."""
    oidc_issuer: str | None = None
    """URL of an OpenID Connect provider whose users may call. None: only tokens of knit's own."""
    oidc_audience: str | None = None
    """What tokens of that provider must be for (`aud`). None: `oidc_client_id`."""
    oidc_client_id: str | None = None
    """The public client with which `knit login` asks that provider for tokens."""
    oidc_scopes: str | None = None
    """The scopes that `knit login` asks for, with spaces between. None: those of `openid profile
    email groups offline_access` that the provider says it has."""
    oidc_ca_file: Path | None = None
    """PEM file of certificate authorities trusted for that provider besides the system's."""
    oidc_name_claim: str = "preferred_username"
    """Claim that names a user for people; `sub` where it is missing."""
    oidc_groups_claim: str = "groups"
    """Claim that lists a user's groups; dots lead into objects: `realm_access.roles`."""
    oidc_roles: Mapping[str, Role] = Field(default_factory=dict)
    """Role of each group, as JSON: `{"ml-team": "editor"}`. The highest of a user's groups counts;
    a user without any is refused."""
    oidc_projects: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Tags to which members of a group are bound, as JSON: `{"ml-team": ["project:x"]}`. A user
    sees what has a tag of any of these groups, and is bound even if other groups are not."""
    requests_per_minute: int = Field(default=1200, ge=1)
    """How many requests a subject may make per minute on average; each API process counts."""
    failures_per_minute: int = Field(default=30, ge=1)
    """How many requests without a valid token an address may make per minute on average."""
    public_url: str | None = None
    """How clients reach the API, without a path: `https://knit.example`. None: as the request says
    (its `Host`)."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses of the proxies in front of the API, as JSON: `["10.0.0.0/8"]`. What they say in
    `X-Forwarded-For` and `X-Forwarded-Proto` counts, what others say there does not."""

    @field_validator("bootstrap_token_sha256")
    @classmethod
    def _is_sha256(cls, digest: SecretStr | None) -> SecretStr | None:
        if digest is not None and not re.fullmatch(
            "[0-9a-fA-F]{64}", digest.get_secret_value().strip()
        ):
            raise ValueError("must be the 64 hexadecimal digits of a SHA-256, not the token itself")
        return digest

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[\w.:\[\]-]+/?", url):
            raise ValueError("must be scheme and host without a path: https://knit.example")
        return url and url.rstrip("/")

    @field_validator("oidc_issuer")
    @classmethod
    def _is_safe(cls, issuer: str | None) -> str | None:
        if issuer is not None and (fault := fault_of_url(issuer)) is not None:
            raise ValueError(f"{fault}; write https://…, as the provider itself does")
        return issuer

    @field_validator("oidc_projects")
    @classmethod
    def _are_tags(cls, projects: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for group, tags in projects.items():
            try:
                for tag in tags:
                    parse_tag(tag)
            except InvalidTag as cause:
                raise ValueError(f"group {group!r}: {cause.reason}") from cause
        return projects

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.oidc_issuer is not None:
            if self.oidc_client_id is None and self.oidc_audience is None:
                raise ValueError(
                    "OIDC_ISSUER needs OIDC_CLIENT_ID or OIDC_AUDIENCE beside it, or tokens for "
                    "other services would open this one"
                )
            if not self.oidc_roles:
                raise ValueError("OIDC_ISSUER needs OIDC_ROLES beside it, or nobody has a role")
        return self


class QueueSettings(_Group):
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

    @classmethod
    def single(cls, name: str) -> QueueSettings:
        """Gives one queue for everything, served by one Worker."""
        return cls(engine=name, compute=name, watch=name, interactive=name, hooks=name)


class Settings(BaseSettings):
    """All settings of a process; two underscores lead into a group: `KNIT_STORE__URL`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, frozen=True, extra="ignore"
    )

    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    compute: ComputeSettings = ComputeSettings()
    queues: QueueSettings = QueueSettings()
    hooks: HookSettings = HookSettings()
    accounts: AccountSettings = Field(default_factory=AccountSettings)
    extra_apis: ExtraApisSettings = ExtraApisSettings()
    log_format: LogFormat = "auto"
    log_level: LogLevel = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, text: object) -> object:
        return text.upper() if isinstance(text, str) else text


class SettingsRefused(Exception):
    """An environment variable has an unknown name or an invalid value; the message says which."""


def read_settings() -> Settings:
    """Reads the environment.

    Raises:
        SettingsRefused: a variable is invalid, or unknown though it has the prefix of a group of
            settings.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [_fault(one) for one in error.errors(include_url=False)]
    except SettingsError as error:
        faults = [f"{error}: set its parts as {_PREFIX}GROUP{_DELIMITER}NAME, or all as JSON"]
    advice = "correct it or remove it; docs/reference/settings.md lists all settings"
    raise SettingsRefused(f"{'; '.join(faults)}; {advice}") from None


def _fault(error: ErrorDetails) -> str:
    """Names the variable and its value, but never the value of one that may hold a secret."""
    value = error["input"]
    parts = [str(part) for part in error["loc"]]
    while error["type"] == "extra_forbidden" and isinstance(value, dict) and value:
        part, value = next(iter(value.items()))  # the unknown group of a variable
        parts.append(part)
    variable = _PREFIX + _DELIMITER.join(parts).upper()
    if error["type"] == "extra_forbidden":
        known = (name for name, _ in _variables(_PREFIX, Settings))
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0)
        return f"{variable} is not a setting of knit, {near[0]} is the nearest"
    shown = f" is {value!r}" if isinstance(value, str) and not _SECRET.search(variable) else ""
    return f"{variable}{shown}: {error['msg'].removeprefix('Value error, ')}"


def path_variables() -> frozenset[str]:
    """Gives the environment variables whose value is a path, relative to a process's folder."""
    paths = (Path, Path | None)
    return frozenset(name for name, kind in _variables(_PREFIX, Settings) if kind in paths)


def _variables(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Gives the environment variables of a settings class and of its groups, each with its type."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(f"{variable}{_DELIMITER}", field.annotation)
        else:
            yield variable, field.annotation
