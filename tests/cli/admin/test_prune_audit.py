"""`knit admin prune-audit`: first the archive, then the removal; as the owner of the tables."""

from __future__ import annotations

import json
import stat

import pytest

from tests.cli.admin.conftest import Admin

pytestmark = pytest.mark.patient  # each starts helm's and kubectl's stand-ins many times

LINES = '{"entry_id":1}\n{"entry_id":2}\n'
OLDER = ("--older-than", "400d", "--archive", "old audit.jsonl")


def migration() -> dict:
    labels = {
        "app.kubernetes.io/name": "knit-app",
        "app.kubernetes.io/instance": "knit-app",
        "app.kubernetes.io/component": "migrate",
        "app.kubernetes.io/part-of": "knit",
    }
    made = {"batch.kubernetes.io/controller-uid": "u", "job-name": "j", "controller-uid": "u"}
    container = {"name": "migrate", "image": "knit:1", "command": ["x"], "env": [{"name": "A"}]}
    pod = {"restartPolicy": "OnFailure", "serviceAccountName": "s", "containers": [container]}
    template = {"metadata": {"labels": {**labels, **made}}, "spec": pod}
    return {"metadata": {"labels": labels}, "spec": {"template": template}}


@pytest.fixture
def full(installed: Admin) -> Admin:
    """An audit log with two old rows."""
    installed.tools.add("Job", "knit-migrate-1", **migration())
    installed.tools.say("audit-export", f'{LINES}{{"rows": 2, "sha256": "abc"}}\n')
    installed.tools.say("removed", '{"removed": 2}')
    installed.tools.say("whoami", json.dumps({"status": {"userInfo": {"username": "mary"}}}))
    return installed


def executed(admin: Admin) -> list[list[str]]:
    found = [words for _, words, _ in admin.tools.calls("kubectl") if "exec" in words]
    return [words[words.index("knit_workflows.store.audit_pruning") + 1 :] for words in found]


def test_rows_are_archived_and_then_removed(full: Admin):
    ended = full.succeed("prune-audit", *OLDER, "--yes")
    path = full.knit.cwd / "old audit.jsonl"
    assert path.read_text().startswith(LINES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"2 rows are in {path}; their SHA-256 is abc" in ended.err
    assert "2 rows are removed from the audit log, and that is recorded" in ended.err
    export, remove = executed(full)
    assert export[:2] == ["export", "--before"]
    assert remove[:3] == ["remove", *export[1:]]
    assert remove[3:5] == ["--sha256", "abc"]
    assert remove[6].startswith("mary (")
    assert not any("knit-prune-audit" in key for key in full.tools.objects())


def test_the_pod_has_what_the_migration_has(full: Admin):
    full.succeed("prune-audit", *OLDER, "--yes")
    pod = next(json.loads(given) for _, words, given in full.tools.calls() if "apply" in words)
    spec = pod["spec"]
    assert spec["containers"][0]["env"] == [{"name": "A"}]
    assert spec["containers"][0]["command"][0] == "sleep"
    assert (spec["serviceAccountName"], spec["restartPolicy"]) == ("s", "Never")
    assert pod["metadata"]["labels"] == {
        "app.kubernetes.io/name": "knit-app",
        "app.kubernetes.io/component": "migrate",
        "app.kubernetes.io/part-of": "knit",
    }


def test_without_agreement_nothing_is_removed(full: Admin):
    ended = full("prune-audit", *OLDER)
    assert ended.code == 1
    assert "nothing was removed" in ended.err
    assert len(executed(full)) == 1
    assert (full.knit.cwd / "old audit.jsonl").exists()
    assert not any("knit-prune-audit" in key for key in full.tools.objects())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINES, "the rows did not all arrive"),
        ("", "the rows did not all arrive"),
        ('{"rows": 2}\n', "the rows did not all arrive"),
    ],
)
def test_half_an_export_removes_nothing(full: Admin, text, words):
    full.tools.say("audit-export", text)
    ended = full("prune-audit", *OLDER, "--yes")
    assert ended.code == 1
    assert words in ended.err
    assert len(executed(full)) == 1
    assert not (full.knit.cwd / "old audit.jsonl").exists()


def test_an_archive_is_never_overwritten(full: Admin):
    path = full.knit.cwd / "old audit.jsonl"
    path.write_text("mine")
    ended = full("prune-audit", *OLDER, "--yes")
    assert ended.code == 1
    assert "cannot make the archive" in ended.err
    assert path.read_text() == "mine"
    assert executed(full) == []


def test_nothing_old_leaves_no_archive(full: Admin):
    full.tools.say("audit-export", '{"rows": 0, "sha256": "e3b0"}\n')
    ended = full.succeed("prune-audit", *OLDER)
    assert "has nothing older than 400d" in ended.err
    assert not (full.knit.cwd / "old audit.jsonl").exists()


def test_what_is_young_stays(full: Admin):
    ended = full("prune-audit", "--older-than", "29d", "--archive", "a")
    assert ended.code == 1
    assert "the rows of the last 30 days stay" in ended.err
    assert full.tools.calls() == []


def test_where_knit_is_not_installed(prepared: Admin):
    ended = prepared("prune-audit", *OLDER, "--yes")
    assert ended.code == 1
    assert "knit is not installed in namespace knit" in ended.err
