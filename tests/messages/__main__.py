"""`python -m tests.messages`: runs the quick tests and lists the texts that no test brings about.

A text is what `places` says. Each process of the tests, servers and pods' programs too, notes which
it used. Arguments are pytest's own: `python -m tests.messages tests/cli`. The exit code is 1 when a
text was never used, or a test failed.

There are no exceptions: what no test can bring about, nobody will ever read, and it is deleted.
"""

from __future__ import annotations

import ast
import marshal
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.messages.places import Place, recording

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("knit_api", "knit_cli", "knit_workflows")
QUICK: Final = (
    *("tests/unit", "tests/store", "tests/api", "tests/cli", "tests/docs", "tests/workflows"),
    *("tests/contract", "--ignore", "tests/api/test_fuzz.py"),
    *("-q", "-n", "2", "--hypothesis-profile=quick", "-m", "not slow and not cluster"),
)


def texts(folder: Path | None = None) -> dict[str, dict[str, Place]]:
    """Gives all texts: by module, then by place; their modules' code that tells goes into a folder.

    So what is run is what was looked through, whoever edits meanwhile.
    """
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree, places = recording(ast.parse(path.read_bytes()))
            found[name] = {place.key: place for place in places}
            if folder is not None:
                code = compile(tree, str(path), "exec", dont_inherit=True)
                (folder / f"{name}.code").write_bytes(marshal.dumps(code))
    return found


def used(folder: Path) -> dict[str, set[str]]:
    """Gives the places that some process noted, by module."""
    found: dict[str, set[str]] = {}
    for file in folder.glob("said.*"):
        for line in file.read_text().splitlines():
            name, _, place = line.partition(" ")
            found.setdefault(name, set()).add(place)
    return found


def main(arguments: list[str]) -> int:
    """Runs, then report."""
    with tempfile.TemporaryDirectory(prefix="knit-messages-") as name:
        folder = Path(name)
        # Everybody may write here: some tests run programs as other users.
        folder.chmod(0o777)
        everything = texts(folder)
        hook = Path(__file__).parent / "hook"
        environment = {
            **os.environ,
            "KNIT_MESSAGES": name,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(hook), os.environ.get("PYTHONPATH")))),
        }
        command = [sys.executable, "-m", "pytest", *(arguments or QUICK)]
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        said = used(folder)
    return _report(everything, said, whole=not arguments) or int(code != 0)


def _report(all_texts: dict[str, dict[str, Place]], said: dict[str, set[str]], whole: bool) -> int:
    left, count = [], 0
    for name, places in all_texts.items():
        seen = said.get(name, set())
        count += len(places)
        for key, place in places.items():
            if key not in seen:
                left.append(f"{name.replace('.', '/')}.py:{place.line}: {place.text[:100]!r}")
    sys.stdout.write("\n".join([*left, ""]) if left else "")
    sys.stdout.write(f"{count} texts, {len(left)} used by no test\n")
    return int(bool(left) and whole)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
