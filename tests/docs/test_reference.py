"""What the documentation says exists, and what exists is in the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from knit_workflows.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "charts").glob("*/README.md")),
]
PACKAGES = ("knit_workflows", "knit_api", "knit_cli")
VARIABLE = re.compile(r"\bKNIT_[A-Z_]*[A-Z]\b(?![_…])")
METAVARIABLES = {"KNIT_ID", "KNIT_PROFILE_FILE"}
USAGE_WORD = r"[a-z-]+|\[OPTIONS\]|\[[A-Z_:]+\](\.\.\.)?|[A-Z_:]+(\.\.\.)?|yes\|no"
"""A word of a command, or what stands for a value, perhaps one that may be left out."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SKIPPED = {".git", ".venv", "__pycache__"}


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def reference() -> object:
    """The generator's own module; it stands beside the other tools, which are no package."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import reference
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return reference


@pytest.mark.parametrize(
    "name", ["cli.md", "settings.md", "plan-file.md", "hooks.md", "api.md", "statuses.md"]
)
def test_a_reference_page_is_what_the_code_gives(reference, name: str) -> None:
    committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == reference.PAGES[name](), f"{name} is stale: run `make docs`"


def test_every_reference_page_is_generated(reference) -> None:
    there = {page.name for page in (ROOT / "docs" / "reference").iterdir()}
    assert there == set(reference.PAGES)


def test_the_tables_of_values_are_what_the_charts_say(reference) -> None:
    for page, text in reference.readmes().items():
        assert page.read_text("utf-8") == text, f"{relative(page)} is stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(place), f"{target}: there is no such heading"


def anchors(page: Path) -> set[str]:
    """The anchors that Git hosts make of headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in found)
    return {heading.replace(" ", "-") for heading in kept}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (target.partition("#")[0] for target in LINK.findall(page.read_text("utf-8")))
        places = [page.parent / target for target in targets if target and "://" not in target]
        waiting += [inner for place in places for inner in (sorted(place.glob("*.md")) or [place])]
    assert {relative(page) for page in PAGES} <= {relative(page) for page in reached}


@pytest.fixture(scope="module")
def known(reference) -> set[str]:
    """The names of all variables; to gather them takes longer than to read a page."""
    return reference.setting_names() | reference.other_variables()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_environment_variable_mentioned_exists(known: set[str], page: Path) -> None:
    mentioned = set(VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert mentioned - METAVARIABLES <= known, sorted(mentioned - METAVARIABLES - known)


def test_every_variable_outside_the_settings_is_read_somewhere(reference) -> None:
    sources = [path for path in tracked_files() if path.suffix == ".py" and path.is_file()]
    written = "\n".join(
        path.read_text("utf-8") for path in sources if path.name != "reference_words.py"
    )
    assert {name for name in reference.other_variables() if name not in written} == set()


def test_no_sentence_is_kept_for_a_setting_that_is_gone(reference) -> None:
    assert set(reference.SETTINGS_WORDS) - reference.setting_names() == set()


@pytest.mark.parametrize("name", ["settings.md", "hooks.md"])
def test_every_default_can_be_copied(reference, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set as that variable it is accepted, and means what the code has without it."""
    page = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(KNIT_\w+)` \| (.*?) \|", page, re.MULTILINE)
    shown_defaults = {one: shown for one, shown in rows if one in reference.setting_names()}
    assert len(shown_defaults) > 5
    for variable in [one for one in os.environ if one.startswith("KNIT_")]:
        monkeypatch.delenv(variable)
    for variable, shown in shown_defaults.items():
        if shown == "–":
            continue
        text = re.fullmatch(r"`([^`]+)`", shown)
        assert text is not None, f"{variable}: {shown}"
        with monkeypatch.context() as context:
            context.setenv(variable, text[1])
            assert setting(variable) == setting(variable, Settings.model_construct()), variable


def setting(variable: str, settings: object = None) -> object:
    """The value of a setting, as the environment says, or in these settings."""
    found = read_settings() if settings is None else settings
    for part in variable.removeprefix("KNIT_").lower().split("__"):
        found = getattr(found, part)
    return found


def test_every_usage_line_is_well_formed(reference) -> None:
    """As `--help` and the reference have it: `[NAME]` for what may be left out, each closed."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    lines = re.findall(r"^```sh\n(knit .*)\n```$", page, re.MULTILINE)
    assert len(lines) == len(reference.command_names())
    for line in lines:
        assert all(re.fullmatch(USAGE_WORD, word) for word in line.split()[1:]), line


def test_every_command_mentioned_exists(reference) -> None:
    """`knit NOUN VERB` in a page is a command there is; the status page names those to come."""
    known = {words[1:3] for words in reference.command_names()}
    nouns = {words[0] for words in known}
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            for noun, verb in re.findall(r"(?:`|\$ |^|\| |&& )knit ([a-z]+)(?: ([a-z-]+))?", line):
                # Words that are no noun of ours are prose, or extensions.
                if noun in nouns and verb:
                    assert (noun, verb) in known or (noun,) in known, f"{relative(page)}: {line}"


def test_every_package_is_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w/.]+)` \|", page, re.MULTILINE))
    packages = {
        relative(init.parent)
        for root in PACKAGES
        for init in (ROOT / root).rglob("__init__.py")
        if "versions" not in init.parts
    }
    modules = {
        relative(module)
        for module in (ROOT / "knit_workflows").glob("*.py")
        if not module.name.startswith("__")
    }
    assert packages - listed - {"knit_workflows"} == set(), "packages without a row"
    assert modules - listed == set(), "modules without a row"
    assert {row for row in listed if not (ROOT / row).exists()} == set(), "rows without a module"


def test_no_file_names_a_path_of_this_machine() -> None:
    generic = {"/", "/usr", "/usr/local", "/root", "/tmp", "/home"}
    paths = {str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())} - generic
    mine = [path for path in paths if path.count("/") > 1]
    assert places_of([re.escape(path) + r"(?![\w-])" for path in mine]) == []


def test_no_file_names_a_registry_that_this_machine_uses() -> None:
    """Where packages come from is the machine's business: lock files carry hashes only."""
    hosts = registry_hosts()
    found = places_of([rf"(?<![\w.-]){re.escape(host)}(?![\w-])" for host in hosts])
    assert found == []


def places_of(patterns: list[str]) -> list[str]:
    if not patterns:
        return []
    wanted = re.compile("|".join(patterns).encode())
    return [relative(path) for path in tracked_files() if wanted.search(path.read_bytes())]


def tracked_files() -> list[Path]:
    """The files of the repository, those not committed yet among them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # unpacked from an archive
        found = [path for path in ROOT.rglob("*") if not SKIPPED & set(path.parts)]
    return [path for path in found if path.is_file()]


def registry_hosts() -> set[str]:
    """The hosts from which pip, npm and Go take packages here, as far as they are set up."""
    asking = (
        [sys.executable, "-m", "pip", "config", "list"],
        ["npm", "config", "get", "registry"],
        ["go", "env", "GOPROXY"],
    )
    hosts: set[str] = set()
    for command in asking:
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except FileNotFoundError:
            continue
        hosts |= set(re.findall(r"https?://(?:[^@/\s'\"]*@)?([^/:\s'\",|]+)", said.stdout))
    return {host for host in hosts if "." in host and host not in ("127.0.0.1",)}
