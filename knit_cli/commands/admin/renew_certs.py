"""`knit admin renew-certs`: makes new certificates, and has them served."""

from __future__ import annotations

from typing import Annotated

import typer

from knit_cli.admin.handout import write_handout
from knit_cli.admin.installing.preparation import parse_hosts
from knit_cli.admin.tls.renewal import renew
from knit_cli.commands.admin.options import (
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
from knit_cli.errors import CliError
from knit_cli.invocation import invocation_of
from knit_cli.output import say

app = typer.Typer()


@app.command("renew-certs")
def renew_command(
    context: typer.Context,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    renew_ca: Annotated[
        bool,
        typer.Option("--renew-ca", help="A new CA too: all users need new handouts ($RENEW_CA)."),
    ] = False,
    host: Hosts = None,
    tls_ca_cert: CaCertificate = None,
    tls_ca_key: CaKey = None,
    tls_cert: ServerCertificate = None,
    tls_key: ServerKey = None,
    verbose: Verbose = False,
) -> None:
    """Make a new server certificate for the same names and all nodes of today, and serve it.

    Nothing is restarted: API and registry take the new one up within seconds. What is replaced is
    kept in certs/replaced-….
    """
    invocation = invocation_of(context)
    given = given_files(invocation, tls_ca_cert, tls_ca_key, tls_cert, tls_key)
    new_authority = switch(invocation, renew_ca, "RENEW_CA")
    refuse_both(new_authority, bool(given), ("--renew-ca", "certificates"))
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    with work.folder.sole_user():
        before = work.folder.read_bytes(work.folder.ca_certificate)
        said = renew(
            work.folder,
            work.cluster,
            given=given,
            hosts=parse_hosts(host or ()),
            new_authority=new_authority,
        )
        after = work.folder.read_bytes(work.folder.ca_certificate)
    for one in said:
        say(one)
    try:
        write_handout(work.folder, work.cluster)
    except CliError as error:
        say(f"the handouts are as they were: {error.reason or error.summary}")
        return
    if before != after:
        say(f"users need the new CA: give them {work.folder.handouts} once more")
