"""`knit admin`: the commands of administrators, each loaded when it is used."""

from __future__ import annotations

import typer

from knit_cli.shell.lazy import Entry, LazyGroup


class AdminGroup(LazyGroup):
    """The commands of administrators."""

    entries = {  # noqa: RUF012  declared ClassVar where it comes from
        "prepare": Entry(
            "knit_cli.commands.admin.prepare:app",
            "Write the settings folder of an installation.",
            single=True,
        ),
        "install": Entry(
            "knit_cli.commands.admin.install:app",
            "Install knit on a cluster, or bring it in line with the folder.",
            single=True,
        ),
        "upgrade": Entry(
            "knit_cli.commands.admin.install:app", "Upgrade what is installed.", single=True
        ),
        "status": Entry(
            "knit_cli.commands.admin.status:app", "Show what is installed.", single=True
        ),
        "doctor": Entry(
            "knit_cli.commands.admin.doctor:app",
            "Check an installation, and say how to mend it.",
            single=True,
        ),
        "verify": Entry(
            "knit_cli.commands.admin.recovery.verify:app",
            "Compare database, Temporal and volumes.",
            single=True,
        ),
        "rebuild": Entry(
            "knit_cli.commands.admin.recovery.rebuild:app",
            "Rebuild a lost database, without a backup.",
            single=True,
        ),
        "handout": Entry(
            "knit_cli.commands.admin.handout:app", "Write what users need.", single=True
        ),
        "renew-certs": Entry(
            "knit_cli.commands.admin.renew_certs:app", "Renew the certificates.", single=True
        ),
        "backup": Entry(
            "knit_cli.commands.admin.recovery.backup:app",
            "Take a backup while Runs go on.",
            single=True,
        ),
        "restore": Entry(
            "knit_cli.commands.admin.recovery.restore:app",
            "Restore a backup into an empty installation.",
            single=True,
        ),
        "freeze": Entry(
            "knit_cli.commands.admin.freeze:freezing",
            "Bring an installation to rest.",
            single=True,
        ),
        "thaw": Entry(
            "knit_cli.commands.admin.freeze:thawing",
            "Bring a frozen installation back to work.",
            single=True,
        ),
        "uninstall": Entry(
            "knit_cli.commands.admin.uninstall:app", "Remove an installation.", single=True
        ),
        "token": Entry("knit_cli.commands.admin.token:app", "Give others tokens, and revoke them."),
        "audit": Entry("knit_cli.commands.admin.audit:app", "Show who has done what.", single=True),
        "prune-audit": Entry(
            "knit_cli.commands.admin.prune_audit:app",
            "Move old rows of the audit log into a file.",
            single=True,
        ),
    }


app = typer.Typer(cls=AdminGroup)
