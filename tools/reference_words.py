"""The sentences of `docs/reference/` that the code itself does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COMMAND_LINE: Final = """\
Results go to stdout; messages, progress and errors go to stderr. The exit code is 0 for success, 2
for wrong usage, and 1 for everything else; `knit status` has 3 for what needs attention. An error
says what failed, why, and what to do next.

Any other `knit NAME` runs an executable `knit-NAME` on `PATH`, with the common flags in
`KNIT_PROFILE`, `KNIT_PROFILE_STORE` and `KNIT_ENV`.

[Work on the command line](../how-to/command-line.md) describes the behaviour in scripts and after
broken connections, and the differences from Knitfab's command of the same name.

| file | holds |
|---|---|
| `.knitprofile` | the name of the profile that this folder and all below it use |
| `~/.knit/profile` | the profiles by name, in YAML: `apiRoot`, `cert.ca` for a CA of its own, and \
`token` or `tokenFile` for a token |
| `~/.knit/credentials` | what `knit login` has obtained, by API |
| `knitenv` | a project's defaults, in YAML |

`.knitprofile` and `knitenv` are looked for in this folder, then in those above it, each by itself.

```yaml
# knitenv
tag: ["project:demo"]            # added to every Data that is pushed; used by plan template
resource: {cpu: 4, memory: 8Gi}  # of plan template: cpu, memory, or any other resource
```

TIME is written like `2026-11-29`, `2026-11-29T09:00` (local time) or `2026-11-29T09:00:00+09:00`;
DURATION like `2h45m`; AGE like `90d`, `2w` or `36h`.
"""

SETTINGS: Final = """\
What the API and the workers read from their environment when they start. `knit dev` sets them for
the processes it starts, so a stack on a laptop needs none. API and workers of one knit must agree
on `KNIT_STORE__URL` and the queues. Lists and mappings are JSON (`["/opt/data"]`), lengths of time
are ISO 8601 (`PT15S`, `PT10M`, `PT0S`) or `HH:MM:SS`. Defaults are written as they would be set; –
stands for what is not set.

Where Temporal is, and how to reach it, is Temporal's own to say: `TEMPORAL_ADDRESS`,
`TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_…`, or a profile in its configuration file.
"""

SETTINGS_WORDS: Final[Mapping[str, str]] = {
    "KNIT_LOG_FORMAT": "`json` lines, `rich` for people, or `auto`: rich on a terminal, else json.",
    "KNIT_LOG_LEVEL": "The lowest level that is logged.",
}
"""For settings without a docstring of their own."""

OTHER_VARIABLES: Final = (
    (
        "`KNIT_TOKEN`",
        "`knit`",
        "The token to send to the API; it precedes that of the profile and a login.",
    ),
    (
        "`KNIT_TEMPORAL_CLI`",
        "`knit dev`, `make`, tests",
        "The `temporal` program to use; see [Install knit](../how-to/install.md).",
    ),
    (
        "`KNIT_CACHE`",
        "`knit dev`, `make`, tests",
        "Folder for programs that are fetched or built once; not set: `~/.cache/knit`.",
    ),
    (
        "`KNIT_TEST_KUBECONFIG`",
        "tests",
        "A cluster to test on, instead of one made for the tests.",
    ),
    (
        "`KNIT_TEST_ENGINE`",
        "tests",
        "The container engine to test with; `make test` finds one itself.",
    ),
    ("`KNIT_RACE_SECONDS`, `KNIT_RACE_SEEDS`", "tests", "Length and number of the race tests."),
    ("`KNIT_FUZZ_CASES`", "tests", "How many requests the fuzz test of the API makes."),
    (
        "`KNIT_CHAOS_SEED`",
        "tests",
        "The seed of the short fault campaign; `random`: another one each time, which is printed.",
    ),
    ("`KNIT_TRANSFER_TOKEN`", "transfer pods", "Set by knit: the token of their endpoint."),
    (
        "`KNIT_PROFILE`, `KNIT_PROFILE_STORE`, `KNIT_ENV`",
        "extensions",
        "Set by `knit` for the commands it is extended with.",
    ),
)
"""Names (a cell may hold several), who reads them, what for."""

PLAN_FILE: Final = """\
# Plan file

A Plan is one kind of computation: an image, and the mountpoints through which Data go in and come
out, described by tags. `knit plan apply FILE` reads it as YAML; the API takes the same as JSON.

```yaml
image: localhost:5000/train:v2
entrypoint: ["python", "-u", "train.py"]
args: ["--epochs", "3"]
inputs:
  - path: /in/dataset
    tags: ["type:dataset", "project:demo"]
outputs:
  - path: /out/model
    tags: ["type:model", "project:demo"]
log:
  tags: ["type:log", "project:demo"]
resources: {{cpu: "2", memory: 4Gi}}
```

{table}

`priority`, `pod` and `volume` are keys of knit's own, which Knitfab has not; what the last two mean
on a cluster is in [What run pods and volumes ask of a cluster](../how-to/cluster-options.md).

A key that is not in this table is refused, with the line and the nearest key there is.
[`plan.schema.json`](plan.schema.json) is the table for editors; `knit plan schema` prints it.

## Rules

* There is at least one input, and every input has at least one tag.
* An image is named as container engines name it, `[host[:port]/]repository[:tag][@digest]`:
  the repository in lower case and at most 255 characters, the tag at most 128. The part before the
  first `/` is a host if it is `localhost`, or has a dot, a colon or a capital letter. A digest
  (`sha256:` and 64 hexadecimal digits) pins what is run, with a tag beside it or without.
* Paths are absolute and clean: no `.`, `..`, `//`, colon or control character; one `/` at the end
  is dropped. They have at most 4095 bytes, 255 between two slashes, and are not in `/proc` or
  `/sys`. No two paths may be equal or nested; `/in/1` and `/in/10` are two folders. `/log`
  belongs to the log, if there is one.
* A tag is split at its first colon, and trimmed; a key has at most {tag_key}, a value {tag_value}
  characters. Quote tags: YAML reads `{{a: b}}` where you mean `"a:b"`.
* Keys that begin with `knit#` are knit's own. An input may ask for `knit#id:ID` of a Data and
  `knit#timestamp:TIME`, one value of each; outputs and the log may have none.
* Quantities are those of Kubernetes (`500m`, `2`, `1Gi`). `cpu` is at least `1m`, `memory` at least
  `1Mi` (0: no limit). Memory and storage are whole bytes: `512m` would be half a byte, and is asked
  about; behind many bytes (`1.1Gi`) the fraction is rounded up. `hugepages-SIZE` is whole pages. An
  extended resource has a domain in its name (`nvidia.com/gpu`) and comes in whole numbers.
* `on_node` takes what Kubernetes takes as a label, `[domain/]name=value`, the value possibly empty:
  `nvidia.com/gpu.product=NVIDIA-L4`, `node_type=gpu`, `dedicated=`.
* One word of entrypoint or args has at most 131,071 bytes, as on Linux. Words and mountpoints
  together take at most 1 MiB of what a cluster can store of a Job: a word its bytes (a `$` counts
  twice, a control character three times), an input {input} and twice its path, an output {output}
  and six times its path. The paths of all outputs together have some 60,000 bytes.
* Inputs and outputs together are at most {mountpoints}.
* Keys of `pod.labels` and `pod.annotations` are those of Kubernetes, `[domain/]name`; those that
  begin with `knit/`, `app.kubernetes.io/` or `batch.kubernetes.io/` are reserved. Annotations have
  256 KiB in all. `shm_size` is at least `1Mi`, and whole bytes, as the `size` of a volume.

What keeps these rules may still be refused by a cluster: a service account that is not there, a
limit range, a quota. `knit plan validate --cluster` has the cluster say so beforehand.

## When two Plans are the same

Image, entrypoint, args, inputs, outputs, log and `on_node` make a Plan what it is; the order of
mountpoints and tags does not matter, that of words does. Registering the same Plan again gives the
one that is there. `resources`, `service_account`, `annotations`, `active`, `priority`, `pod` and
`volume` do not count: if one of those differs, `knit plan apply` refuses and shows the difference,
and the command that changes it: see [Work with Plans](../how-to/plans.md).

## Which Plans may not stand together

A Plan whose output or log would, by its tags, become an input of the same Plan, directly or through
others, is refused: it would run for ever. Inputs with `knit#…` tags do not count.

## Images of the machine itself

On a laptop, an image named `host/NAME:TAG` stands for the machine's own programs in a sandbox:
`/usr`, `/etc` and knit's Python are there, read-only, inputs at their paths read-only, outputs at
theirs. Its resources are not limited. All other images run in a container engine, or on Kubernetes.
"""

PLAN_KEYS: Final[Mapping[str, tuple[str, str]]] = {
    "image": ("text", ""),
    "entrypoint": ("", "the image's"),
    "args": ("", "the image's"),
    "inputs": ("list", "required"),
    "inputs[].path": ("text", ""),
    "inputs[].tags": ("list of tags", "required"),
    "outputs": ("list", "none"),
    "outputs[].path": ("text", ""),
    "outputs[].tags": ("list of tags", "none"),
    "log": ("mapping", "no log is kept"),
    "log.tags": ("list of tags", "none"),
    "on_node": ("mapping", "anywhere"),
    "on_node.may": ("", "none"),
    "on_node.prefer": ("", "none"),
    "on_node.must": ("", "none"),
    "resources": (
        "mapping of name to quantity",
        "`cpu: {cpu}`, `memory: {memory}`, each by itself",
    ),
    "service_account": ("text", "none"),
    "annotations": ("", "none"),
    "active": ("true or false", "`true`"),
    "priority": ("whole number", "`0`"),
    "outputs[].volume": ("mapping", "as installed"),
    "outputs[].volume.storage_class": ("text", "as installed"),
    "outputs[].volume.access_mode": ("text", "as installed"),
    "outputs[].volume.size": ("quantity", "as installed"),
    "log.volume": ("mapping", "as installed"),
    "log.volume.storage_class": ("text", "as installed"),
    "log.volume.access_mode": ("text", "as installed"),
    "log.volume.size": ("quantity", "as installed"),
    "pod": ("mapping", "as installed"),
    "pod.labels": ("mapping of text", "none"),
    "pod.annotations": ("mapping of text", "none"),
    "pod.tolerations": ("list", "none"),
    "pod.tolerations[].key": ("text", "every taint"),
    "pod.tolerations[].operator": ("text", "by whether there is a value"),
    "pod.tolerations[].value": ("text", "none"),
    "pod.tolerations[].effect": ("text", "all"),
    "pod.tolerations[].seconds": ("whole number", "for ever"),
    "pod.runtime_class": ("text", "the cluster's"),
    "pod.priority_class": ("text", "as installed"),
    "pod.image_pull_secrets": ("list of text", "none"),
    "pod.shm_size": ("quantity", "64 MiB"),
    "pod.topology_spread": ("list", "none"),
    "pod.topology_spread[].topology_key": ("text", ""),
    "pod.topology_spread[].max_skew": ("whole number", "`1`"),
    "pod.topology_spread[].when_unsatisfiable": ("text", "`DoNotSchedule`"),
    "pod.queue": ("text", "none"),
    "pod.relaunches": ("whole number", "`KNIT_ENGINE__DISRUPTION_LIMIT`"),
}
"""By key: its form (empty: as the schema says) and its default."""

ENDPOINTS: Final = """\
The document itself is served as `/api/openapi.json` (OpenAPI 3.1), and as a page for people under
`/api/docs`. Callers authenticate, and endpoints need a role ([security](../security.md)): 401
without a valid token, 403 if the role does not suffice, 429 for too many requests. With
`KNIT_ACCOUNTS__REQUIRED=false` anybody may do everything; the API then refuses to listen on another
than a loopback address.

Every error has the same shape, and says what to do next:

```json
{"message": {"reason": "the Plan has no input", "advice": "give it an input with tags", "see": ""}}
```

`see` is the id or the place to look at. Answers with 503 may be tried again, after `Retry-After`
seconds. Times are RFC 3339 with an offset, in answers and in filters alike.

## Pages

Lists are plain arrays of all there is, unless `limit` (1 to 1000) is given. Then, when there is
more, the header `X-Next-Cursor` holds the `cursor` of the next page, and `Link` its whole address
(`rel="next"`). A cursor is a place in the order of the list: what changes, moves or is deleted
meanwhile hides nothing else. A Run that changes between two pages appears again, as the newest. A
Data that is finished once the pages have come to the unfinished ones is on none of the rest: its
place, by its time, is before them.

Without `limit` a list is read and sent a thousand items at a time, in chunks if there are as many,
so however long it is, it takes the API no more memory than a page. Each Data, or Run, that there is
when the request comes is in it once, in the order of that instant and as it is when it is sent,
whatever is added, changes or moves meanwhile; what is deleted is left out. If something fails on
the way, the connection ends without the last chunk, and the array without its `]`. Over HTTP/1.0,
which has no chunks, the list is put together first: 426 if it has more than 32 MiB.

## When the database is slow, or frozen

A request waits for a database that works, up to a minute; one that does not answer at all is given
up within ten seconds, with 503. What such a request was to change may or may not have happened.
Uploads, downloads and followed logs that have begun go on.

## Where it differs from Knitfab's

The API takes and gives what Knitfab v1.6 does, so its clients work. It differs on purpose:

| there | here |
|---|---|
| an error's body is one text | the declared object; the id of the equivalent Plan is in `see` |
| 404 and 405 of no route are texts | the same object; `Allow` names every method of the path |
| a bug, `duration` without `since`: the connection is dropped | 500 with a body; 400 |
| a malformed `knit#timestamp` in `tag`: 500 | 400 |
| a tag nobody has in `in_tag`, `out_tag` is ignored | it matches nothing |
| unknown keys of a JSON body are ignored | 400 that names them: they were meant for something |
| an empty tag change of an unknown Data: 500 | 404 |
| invalidated Runs are listed | they are not; `GET /api/runs/{runId}` still shows them |
| an archive that is broken or no gzip: 500 | 400 |
| paths that lead out of an archive are stored | 400; links are data, and never followed |
| devices in an archive are skipped, pipes become files | 400; pipes are kept |
| another Content-Type of an upload is not looked at | 415 |
| tag values with quotes make answers fail | escaped; control characters are refused (400) |
| the tag `{"key": " knit#…"}` passes, and is read as knit's own | 400; it can be removed |
| a Data shows one nomination | all of them |
| `set` and `unset` of one resource: unset wins | set wins; no `cpu` or `memory`: the default |
| waiting and deactivated Runs cannot be deleted | they can |
| a stop that comes again, or too late, replaces the exit | the exit stays what it was |
| a folder of static files is served at `/` | none |

Beyond it are:

* of lists: `limit` and `cursor`;
* of Data: `/metadata`, `/lineage`, `/purge`; `tag` and `Idempotency-Key` of an upload; archives as
  plain tar; downloads compressed with zstd;
* of Plans: `confirm` and `dry_run`; `/priority`, `/options`;
* of Runs: `/events`, `/timing`; `offset` of a log;
* `/api/adoptions`, `/api/trials`, `/api/hooks…`, `/api/tokens…`, `/api/audit`, `/api/whoami`,
  `/api/completions`, `/api/status`, `/api/version`, `/healthz`, `/readyz`, and
  `/.well-known/oauth-protected-resource`.

## Endpoints
"""

STATUSES: Final[Mapping[str, str]] = {
    "deactivated": "would be waiting, but its Plan is inactive",
    "waiting": "created; not begun",
    "ready": "its volumes exist",
    "starting": "its pod exists; the container has not started",
    "running": "its container has started",
    "completing": "ended well, or stopped as good enough",
    "aborting": "ended badly, or stopped as a failure",
    "done": "final: its outputs are Data that match",
    "failed": "final: its outputs are kept and never match",
    "invalidated": "deleted; the tombstone keeps the combination from running again",
}

EXITS: Final = """\
## Exit codes

| code | message | meaning |
|---|---|---|
| 0 | | success |
| 0 | {} | stopped as good enough: `knit run stop` |
| 1–252 | `(container main) …` | the container's own code, and the reason |
| 137 | `(container main) OOMKilled` | killed for memory |
| 253 | {} | `knit run stop --fail` |
| 253 | `cancelled in Temporal` | its workflow was cancelled |
| 254 | {} | the run pod vanished |
| 254 | `no PATH: somebody has deleted the volume …` | an output was deleted meanwhile |
| 255 | `(pod NAME) [REASON] …` | the run pod could not be started |
"""

HOOKS_FILE: Final = """\
# Hooks file

YAML, as Knitfab's `hooks.yaml`; [how to use it](../how-to/hooks.md). An empty file, and
`/dev/null`, mean no hooks. A file with anything that is not described here is refused as a whole,
with the line.

```yaml
lifecycle-hooks:
  before:
    - https://gate.example.com/runs
  after:
    - https://chat.example.com/runs
    - http://dashboard.tools.svc.cluster.local:8080/runs?team=vision
format: json
allow:
  - 169.254.20.0/24
  - metadata.example.com
```

{table}

A URL is `http` or `https` with a host, of at most {url} characters, each of which may stand in a
URL as it is: others are written percent-encoded, host names as ASCII (`xn--…`). It has no user or
password, no fragment, and stands in a list once.

An entry of `allow` may not be this machine: whether hooks may be there is a setting.

## Settings

Environment variables of the workers with the role `hooks`.

{settings}
"""
"""`table` and `settings` are generated, `url` is a limit."""
