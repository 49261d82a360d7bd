"""`knit admin prepare`: writes the settings folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from knit_cli.admin import charts
from knit_cli.admin.helm.foreign_releases import refuse_foreign_releases
from knit_cli.admin.helm.fresh_values import Choices
from knit_cli.admin.installing.preparation import Preparation, copy_kubeconfig, prepare
from knit_cli.commands.admin.options import (
    Administration,
    CaCertificate,
    CaKey,
    Hosts,
    Kubeconfig,
    Namespace,
    ServerCertificate,
    ServerKey,
    Settings,
    Verbose,
    administration,
    given_files,
    refuse_both,
    switch,
)
from knit_cli.invocation import invocation_of
from knit_cli.output import say

app = typer.Typer()


NoTls = Annotated[bool, typer.Option("--no-tls", help="Plain HTTP, behind a balancer ($NO_TLS).")]
ApiRoot = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The address for users, if it is not that of a node."),
]
Temporal = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="The frontend of your Temporal.")
]
TemporalNamespace = Annotated[
    str | None, typer.Option(metavar="NAME", help="Its namespace for knit (default: knit).")
]
StorageClass = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A StorageClass you have, instead of an NFS server."),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="CHART", help="Also this chart: knit-temporal. Repeat."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="CHART", help="All but this chart. Repeat."),
]


@app.command("prepare")
def prepare_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    host: Hosts = None,
    tls_ca_cert: CaCertificate = None,
    tls_ca_key: CaKey = None,
    tls_cert: ServerCertificate = None,
    tls_key: ServerKey = None,
    no_tls: NoTls = False,
    api_root: ApiRoot = None,
    temporal: Temporal = None,
    temporal_namespace: TemporalNamespace = None,
    storage_class: StorageClass = None,
    with_chart: With = None,
    without_chart: Without = None,
    verbose: Verbose = False,
) -> None:
    """Write the settings folder: certificates, values per chart, the access to the cluster.

    A second call changes nothing that is there: it adds what is missing, and says where values
    differ from those of a fresh folder. PULL_SECRET=.dockerconfigjson=FILE adds a Secret with
    which knit's images are pulled.
    """
    invocation = invocation_of(context)
    given = given_files(invocation, tls_ca_cert, tls_ca_key, tls_cert, tls_key)
    plain = switch(invocation, no_tls, "NO_TLS")
    refuse_both(plain, bool(given), ("--no-tls", "certificates"))
    told = Preparation(
        given=given,
        hosts=host or (),
        no_tls=plain,
        pull_secret=invocation.surroundings.variables.get("PULL_SECRET") or None,
        api_root=api_root,
        choices=Choices(
            without=_known(without_chart, "--without"),
            extra=_known(with_chart, "--with"),
            storage_class=storage_class,
            temporal=temporal,
            temporal_namespace=temporal_namespace,
        ),
    )
    given.check_pairs()
    _write(administration(invocation, settings, namespace, kubeconfig, verbose, new=True), told)


def _write(work: Administration, told: Preparation) -> None:
    folder, cluster = work.folder, work.cluster
    # It may do without a cluster; `install` asks again.
    refuse_foreign_releases(cluster, if_known=True)
    anew = not folder.exists()
    folder.create()
    with folder.sole_user():
        if copy_kubeconfig(folder, cluster):
            say("kubeconfig: copied")
        cluster = cluster.with_kubeconfig(folder.kubeconfig)
        said = prepare(folder, cluster, replace(told, anew=anew))
        # Last, since it marks the folder as complete: what was cut before is done anew.
        if folder.namespace != cluster.namespace or anew:
            folder.save_namespace(cluster.namespace)
            said.append(f"namespace: {cluster.namespace}")
    for one in said:
        say(one)
    say(f"{folder.root} is ready: look through values/, then run `knit admin install`")


def _known(names: list[str] | None, flag: str) -> tuple[str, ...]:
    for name in names or ():
        if name not in charts.ORDER or (flag == "--without" and name == charts.APP):
            known = ", ".join(charts.ORDER)
            raise typer.BadParameter(f"{name} is none of {known}", param_hint=flag)
    return tuple(names or ())
