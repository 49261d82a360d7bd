"""Flags that several `knit admin` commands have, and the variables that stand for them.

The variables are those of Knitfab's installer; a flag goes before its variable. They are read from
the invocation and not by Typer, so that an empty one counts as not set.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.folder import DEFAULT_FOLDER, SettingsFolder
from knit_cli.admin.installing.preparation import check_namespace, copy_kubeconfig, source_of
from knit_cli.admin.tls.files import GivenFiles
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import Invocation

Settings = Annotated[
    str | None,
    typer.Option(
        "--settings",
        "-s",
        metavar="DIR",
        help=f"The settings folder (default: $SETTINGS, else ./{DEFAULT_FOLDER}).",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="The namespace (default: $NAMESPACE, else the one used last, else knit).",
    ),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The kubeconfig; it is copied (default: that copy, else $KUBECONFIG, "
        "else ~/.kube/config).",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show every command of helm and kubectl ($VERBOSE).")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="One more name or address of it. Repeat."),
]
CaCertificate = Annotated[
    str | None, typer.Option("--tls-ca-cert", metavar="FILE", help="A CA of yours ($TLS_CA_CERT).")
]
CaKey = Annotated[
    str | None, typer.Option("--tls-ca-key", metavar="FILE", help="Its key ($TLS_CA_KEY).")
]
ServerCertificate = Annotated[
    str | None,
    typer.Option("--tls-cert", metavar="FILE", help="A server certificate of yours ($TLS_CERT)."),
]
ServerKey = Annotated[
    str | None, typer.Option("--tls-key", metavar="FILE", help="Its key ($TLS_KEY).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Administration:
    """The settings folder of a command, and its cluster."""

    folder: SettingsFolder
    cluster: Cluster


def administration(
    invocation: Invocation,
    settings: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    verbose: bool,
    *,
    new: bool = False,
    remember: bool = True,
) -> Administration:
    """Opens the settings folder, and says which cluster and namespace are meant.

    Args:
        invocation: the invocation.
        settings: the flag, as the three after it.
        namespace: it is remembered in the folder, unless `remember` is False or that is new.
        kubeconfig: it is copied into the folder, unless that is new.
        verbose: whether commands are shown.
        new: the folder need not exist.
        remember: whether the namespace is remembered; False: the caller does, after its checks.

    Raises:
        CliError: there is no settings folder, or no kubeconfig.
    """
    variables = invocation.surroundings.variables
    folder = SettingsFolder(
        invocation.path(settings or variables.get("SETTINGS") or DEFAULT_FOLDER).absolute()
    )
    if not new:
        folder.require()
    # What a command was killed in, this one ends first; unless another one is at it just now.
    if folder.certs.is_dir():
        with suppress(CliError), folder.sole_user():
            folder.finish_replacement()
    named = namespace or variables.get("NAMESPACE")
    chosen = check_namespace(named or folder.namespace)
    if remember and not new and chosen != folder.namespace:
        folder.save_namespace(chosen)
    cluster = Cluster(
        kubeconfig=None,
        namespace=chosen,
        variables=variables,
        verbose=verbose or bool(variables.get("VERBOSE")),
        cwd=invocation.surroundings.cwd.absolute(),
    )
    flag = None if kubeconfig is None else invocation.path(kubeconfig).absolute()
    source = source_of(folder, cluster, flag, invocation.surroundings.home)
    cluster = cluster.with_kubeconfig(source)
    if source != folder.kubeconfig and not new:
        copy_kubeconfig(folder, cluster)
        cluster = cluster.with_kubeconfig(folder.kubeconfig)
    return Administration(folder, cluster)


def given_files(
    invocation: Invocation,
    ca_certificate: str | None,
    ca_key: str | None,
    certificate: str | None,
    key: str | None,
) -> GivenFiles:
    """Gives the certificates that flags or variables name."""
    variables = invocation.surroundings.variables

    def path(flag: str | None, *names: str) -> Path | None:
        value = next((one for one in (flag, *map(variables.get, names)) if one), None)
        return None if value is None else invocation.path(value).absolute()

    return GivenFiles(
        ca_certificate=path(ca_certificate, "TLS_CA_CERT", "TLSCACERT"),
        ca_key=path(ca_key, "TLS_CA_KEY", "TLSCAKEY"),
        certificate=path(certificate, "TLS_CERT", "TLSCERT"),
        key=path(key, "TLS_KEY", "TLSKEY"),
    )


def switch(invocation: Invocation, flag: bool, variable: str) -> bool:
    """Says whether a switch is on, by its flag or its variable."""
    return flag or bool(invocation.surroundings.variables.get(variable))


def refuse_both(first: bool, second: bool, names: tuple[str, str]) -> None:
    """Raises BadInput if two are given that exclude each other."""
    if first and second:
        raise BadInput(f"{names[0]} and {names[1]} exclude each other", advice="give one of them")
