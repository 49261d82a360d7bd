"""`knit admin install` and `upgrade`: one `helm upgrade --install` per chart, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knit_cli.admin import charts, workloads
from knit_cli.admin.charts import ChartSource
from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.freezing.record import check_not_frozen
from knit_cli.admin.helm import releases
from knit_cli.admin.helm.computed_values import computed_values
from knit_cli.admin.helm.foreign_releases import refuse_foreign_releases
from knit_cli.admin.helm.values import overridden, read_values
from knit_cli.admin.installing.crashes import CrashWatch
from knit_cli.admin.installing.preparation import check_api_root
from knit_cli.admin.installing.progress import Progress
from knit_cli.admin.secret_objects import apply_secrets, check_owner, ensure_namespace
from knit_cli.admin.tls.files import check_present
from knit_cli.errors import BadInput, CliError
from knit_cli.output import say


@dataclass(frozen=True)
class Wishes:
    """How to install. `image_repository`: where knit's images are, if not where charts say."""

    source: ChartSource
    timeout: str = "10m"
    image_repository: str | None = None
    force_repair: bool = False
    take_over: bool = False
    quiet: bool = False


def install(folder: SettingsFolder, cluster: Cluster, wishes: Wishes) -> dict[str, float]:
    """Installs or upgrades all charts of the folder; returns the seconds that each took.

    It may be repeated, also after it was killed: releases that a killed helm left behind are
    repaired first, and what is there already is only compared. The folder remembers the namespace.

    Raises:
        CliError: something in the folder cannot be used, the namespace holds another program, or a
            chart could not be installed; those before it stay.
    """
    chosen = charts.chosen(folder)
    _check(folder, chosen)
    with folder.sole_user() as lock:
        held = replace(cluster, lock=lock)
        applying = _ways_to_apply(check_helm(held))
        refuse_foreign_releases(held)
        folder.save_namespace(held.namespace)
        ensure_namespace(held)
        if not wishes.take_over:
            check_owner(folder, held)
        check_not_frozen(held)
        _repair(folder, held, chosen, force=wishes.force_repair)
        before = releases.find_releases(held)
        changed = apply_secrets(folder, held)
        progress = Progress(chosen, wishes.quiet)
        with progress.shown():
            for chart in chosen:
                with progress.step(chart):
                    _install_one(folder, held, chart, wishes, progress, applying)
        # What was there before does not see by itself that its Secret is another one.
        if charts.APP in before:
            restarted = workloads.workloads_with_variable(held, changed)
            workloads.restart(held, restarted, timeout=wishes.timeout)
        return progress.seconds


def check_helm(cluster: Cluster) -> str:
    """Gives the version of helm, such as v3.19.0.

    Raises:
        CliError: it is neither 3 nor 4, or cannot be started.
    """
    found = cluster.helm("version", "--template", "{{.Version}}").strip()
    if not found.startswith(("v3.", "v4.")):
        raise CliError(
            f"helm {found or 'of an unknown version'} cannot be used",
            advice="install helm 3 or 4, or name another one in HELM",
        )
    return found


def _check(folder: SettingsFolder, chosen: Sequence[str]) -> None:
    """Raises BadInput if the folder cannot be installed; nothing is changed then."""
    if charts.APP not in chosen:
        raise BadInput(
            f"the settings folder has no {folder.values(charts.APP)}",
            advice="run `knit admin prepare` with it once more",
        )
    if api_root := folder.read_text(folder.api_root):
        check_api_root(api_root)
    for name in (*chosen, *charts.EXTRA_VALUES):
        read_values(folder, name)
    for name in chosen:
        computed_values(folder, name)
    if check_present(folder) is None and not folder.without_tls.exists():
        raise BadInput(
            "the settings folder has no certificates",
            advice="run `knit admin prepare` once more, with --no-tls behind a balancer",
        )


def _repair(
    folder: SettingsFolder, cluster: Cluster, chosen: Sequence[str], *, force: bool
) -> None:
    cut = folder.at_work_on()
    found = releases.find_releases(cluster)
    for chart in chosen:
        if chart in found:
            done = releases.repair(cluster, found[chart], mine=chart == cut, force=force)
            if done is not None:
                say(done)
    folder.set_at_work_on(None)


def _ways_to_apply(version: str) -> list[str]:
    """Gives helm's flags with which a release's own numbers come back.

    helm 4 has the server apply, where each field is whose who set it last: after a `kubectl scale`,
    by an administrator or by `freeze` and `thaw`, it would refuse to change the number of pods.
    """
    return ["--server-side=true", "--force-conflicts"] if version.startswith("v4.") else []


def _install_one(
    folder: SettingsFolder,
    cluster: Cluster,
    chart: str,
    wishes: Wishes,
    progress: Progress,
    applying: Sequence[str],
) -> None:
    values = merged(
        charts.handed_over(chart, _values_of_others(folder, cluster, chart)),
        computed_values(folder, chart),
    )
    words = _files(folder, chart, values)
    if chart == charts.APP and wishes.image_repository is not None:
        words += ["--set-json", f"imageRepository={json.dumps(wishes.image_repository)}"]
    watch = CrashWatch.begin(cluster, chart, progress.tell)

    def tick() -> None:
        progress.tick()
        watch.look()

    folder.set_at_work_on(chart)
    try:
        cluster.helm(
            *("upgrade", "--install", chart, *wishes.source.arguments(chart)),
            *("--values", "-", *words, "--wait", "--timeout", wishes.timeout, *applying),
            values=values,
            on_tick=tick,
        )
    except ToolFailed as failed:
        folder.set_at_work_on(None)
        raise _failure(cluster, chart, failed) from failed
    folder.set_at_work_on(None)


def _files(folder: SettingsFolder, chart: str, below: Mapping[str, Any]) -> list[str]:
    """Gives helm's words for the administrator's files, which win over the values `below`.

    Says so where they differ: whoever wrote `storage` there years ago may not know.
    """
    names = [chart, *(charts.EXTRA_VALUES if chart == charts.APP else ())]
    words = []
    for name in names:
        path = folder.values(name)
        if path.is_file():
            words += ["--values", str(path)]
            for one in overridden(below, read_values(folder, name)):
                say(f"values/{name}.yaml: {one}; the file counts")
    return words


def _values_of_others(
    folder: SettingsFolder, cluster: Cluster, chart: str
) -> Mapping[str, Mapping[str, Any]]:
    chosen = charts.chosen(folder)
    return {
        other: releases.values_of(cluster, other)
        for other in charts.givers(chart)
        if other in chosen
    }


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Gives values with others on top, as helm merges its files."""
    both = dict(first)
    for key, value in second.items():
        below = both.get(key)
        nested = isinstance(below, dict) and isinstance(value, dict)
        both[key] = merged(below, value) if nested else value  # type: ignore[arg-type]
    return both


def _failure(cluster: Cluster, chart: str, failed: ToolFailed) -> CliError:
    """Explains why a chart was not installed, by what its pods say."""
    try:
        late = [one for one in workloads.find_workloads(cluster, [chart]) if not one.is_ready]
    except CliError:
        late = []
    troubles = [f"{one.name}: {one.ready} of {one.wanted} ready" for one in late]
    troubles += [one.trouble for one in late if one.trouble]
    return CliError(
        f"{chart} could not be installed",
        reason="\n".join([failed.stderr.strip(), *troubles]),
        advice=failed.advice
        or ("mend that, then repeat the command: it goes on from here" if late else None)
        or "correct the values in the settings folder, then repeat the command",
    )
