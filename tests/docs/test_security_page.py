"""The table of roles in docs/security.md: `python -m tests.docs.test_security_page` writes it."""

from __future__ import annotations

from pathlib import Path

from knit_api.accounts.matrix import MATRIX, Rule
from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_api.openapi.document import operations
from tests.api.access import nobody_asks

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
HEAD = ["| request | role | recorded | projects |", "|---|---|---|---|"]


def table() -> list[str]:
    """The lines of the table, as the document and the matrix have it."""
    app = create_app(Deps(Lazy.of(None), Lazy.of(None), nobody_asks()))  # type: ignore[arg-type]
    rows = [
        f"| `{method} {path}` | {_role(rule)} | {_recorded(rule)} | {_projects(rule)} |"
        for path, method, operation in operations(app.openapi())
        for rule in [MATRIX[operation["operationId"]]]
    ]
    return [*HEAD, *sorted(rows, key=lambda row: row.split(" ")[2])]


def _role(rule: Rule) -> str:
    return "none" if rule.role is None else rule.role.value


def _recorded(rule: Rule) -> str:
    return "yes" if rule.recorded else ""


def _projects(rule: Rule) -> str:
    if rule.role is None:
        return ""
    return "theirs" if rule.by_project else "refused"


def test_the_table_of_roles_is_the_matrix() -> None:
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`" in line]
    found = [line for line in shown if line.startswith(("| `GET", "| `P", "| `DELETE"))]
    assert found == table()[2:], "python -m tests.docs.test_security_page writes it"


def write() -> None:
    """Replaces the table in the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEAD[0] if HEAD[0] in lines else "ROLES_TABLE")
    end = next(n for n in range(start, len(lines)) if not lines[n])
    lines[start:end] = table()
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
