"""`knit admin verify --hashes`: compares what is in volumes, from where backups read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.watching import Bar
from knit_cli.admin.verification import Report
from knit_workflows.backup.blobs import Reader
from knit_workflows.backup.content.checking import Choice, ContentCheck, Contents, InSet
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.restoring import choose_set


def check_contents(
    source: Contents, choice: Choice, bar: Bar, in_set: InSet | None, report: Report
) -> Iterator[dict[str, str]]:
    """Gives each finding, and adds it to the report; raises CliError."""
    check = ContentCheck(source, choice, bar, in_set)
    with explained(), bar.shown():
        for change in check.changes():
            finding = {
                "check": "hashes",
                "subject": f"Data {change.knit_id}",
                "message": change.message,
                "cure": change.cure,
            }
            report.findings.append(finding)
            yield finding
    report.counted = {**(report.counted or {}), **check.counted}


@contextmanager
def opened_set(destination: str | None, set_id: str | None, cwd: Path) -> Iterator[InSet | None]:
    """Gives the contents of a backup's set, which is not pruned meanwhile.

    Raises:
        CliError: there is no such set, or it is damaged.
    """
    if destination is None:
        yield None
        return
    with explained(), ExitStack() as stack:
        where = open_destination(destination, cwd, new=False)
        stack.enter_context(where.held())
        chosen = choose_set(where, set_id)
        reader = stack.enter_context(Reader(where))
        yield InSet(chosen.id, {one.knit_id: one for one in chosen.entries(reader)}, reader)
