"""The outermost border: exit codes, messages, patience, and that nothing else comes out."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import httpx
import pytest
from typer.main import get_group

from knit_cli.api.retry import Retry
from knit_cli.commands import nouns
from knit_cli.main import KnitGroup
from tests.cli.real_api import API_ROOT, error
from tests.processes import bare_environment


def raising(problem):
    def answer(request):
        raise problem

    return answer


# ------------------------------------------------------------ trouble with the API


def test_an_api_that_is_not_there(knit, api):
    api.interrupt[("GET", "/runs")] = [raising(httpx.ConnectError("Connection refused"))] * 3
    ended = knit("run", "find")
    assert (ended.code, ended.out) == (1, b"")
    assert re.sub(r"in [0-9.]+ s", "in _ s", ended.err) == (
        f"knit: the API at {API_ROOT} does not answer; retrying in _ s (2 of 3)\n"
        f"knit: the API at {API_ROOT} does not answer; retrying in _ s (3 of 3)\n"
        f"error: the API at {API_ROOT} does not answer\n"
        "reason: Connection refused\n"
        "hint: start it with `knit dev up`, or check apiRoot in "
        f"{knit.store} (profile {knit.cwd})\n"
    )


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (httpx.ConnectTimeout("t"), "does not answer"),
        (httpx.ReadTimeout("t"), "did not answer in time"),
        (httpx.ReadError("reset"), "was cut"),
        (httpx.RemoteProtocolError("gone"), "was cut"),
        (httpx.UnsupportedProtocol("x"), "cannot connect"),
    ],
)
def test_what_the_network_does_is_told_in_words(knit, api, problem, said):
    api.interrupt[("GET", "/runs")] = [raising(problem)] * 3
    ended = knit("run", "find")
    assert ended.code == 1
    assert said in ended.err
    assert "hint: " in ended.err


def test_an_api_that_has_tried_for_a_minute_is_not_asked_again():
    """A transfer that did not open: another minute would bring the same reason."""
    now, sent = [0.0], []

    def send() -> httpx.Response:
        sent.append(now[0])
        now[0] += 60
        return httpx.Response(503)

    def pause(seconds: float) -> None:
        now[0] += seconds

    retry = Retry(pause, notify=sent.append, clock=lambda: now[0])
    assert retry.on_unavailable(send, lambda _: "no such class").status_code == 503
    assert sent == [0.0]


def test_a_certificate_that_is_not_trusted(knit, api):
    problem = httpx.ConnectError("x")
    problem.__cause__ = ssl.SSLCertVerificationError(1, "self-signed")
    api.interrupt[("GET", "/runs")] = [raising(problem)]
    ended = knit("run", "find")
    assert "cannot be trusted" in ended.err
    assert "cert.ca" in ended.err


def test_reading_waits_while_the_api_is_not_available_and_says_so(knit, api):
    api.interrupt[("GET", "/runs")] = [error(503, "no"), error(503, "no"), error(503, "no")]
    ended = knit("run", "find")
    assert (ended.code, ended.out) == (0, b"[]\n")
    assert knit.slept_for(0.5, 1.0, 2.0)
    assert ended.err.count("temporarily unavailable: no; retrying in") == 3


def test_reading_gives_up_after_some_ten_seconds(knit, api):
    api.interrupt[("GET", "/runs")] = [error(503, "Postgres is away") for _ in range(9)]
    ended = knit("run", "find")
    assert ended.code == 1
    assert sum(knit.slept) <= 10
    assert "reason: Postgres is away\nhint: try again later\n" in ended.err


def test_the_pause_the_server_asks_for_is_kept(knit, api):
    later = error(503, "no")
    later.headers["Retry-After"] = "4"
    api.interrupt[("GET", "/runs")] = [later, error(503, "no")]
    assert knit("run", "find").code == 0
    assert knit.slept_for(4.0, 1.0)
    assert knit.slept[0] == 4.0


def test_a_pause_that_is_too_long_is_not_begun(knit, api):
    later = error(503, "no")
    later.headers["Retry-After"] = "120"
    api.interrupt[("GET", "/runs")] = [later]
    assert knit("run", "find").code == 1
    assert knit.slept == []


def test_what_is_refused_is_never_changed_again(knit, api):
    api.interrupt[("PUT", "/runs/r/abort")] = [error(503, "no")]
    assert knit("run", "stop", "r", "--fail").code == 1
    assert len(api.requests) == 1


CUT = raising(httpx.ReadError("reset"))
REFUSED = raising(httpx.ConnectError("refused"))


@pytest.mark.parametrize(
    ("arguments", "method", "path"),
    [
        (["run", "find"], "GET", "/runs"),
        (["data", "tag", "{data}", "--add", "a:b"], "PUT", "/data/{data}"),
        (["run", "stop", "{run}"], "PUT", "/runs/{run}/tearoff"),
        (["run", "rm", "{made}"], "DELETE", "/runs/{made}"),
    ],
)
def test_what_may_be_done_twice_is_tried_three_times(knit, api, arguments, method, path):
    """A connection that breaks says nothing about what was done."""
    data, run = api.add_data(), api.add_run({}, {}, status="running")[0]
    known = {"data": data.knit_id, "made": data.upstream.run.run_id, "run": run.run_id}
    api.interrupt[(method, path.format(**known))] = [CUT, CUT]
    ended = knit(*(one.format(**known) for one in arguments))
    assert ended.code == 0
    assert knit.slept_for(0.5, 1.0)
    assert "s (3 of 3)" in ended.err


def test_a_push_is_tried_again_when_nothing_was_sent(knit, api):
    knit.write("a/x", "content")
    api.interrupt[("POST", "/data")] = [REFUSED, REFUSED]
    ended = knit("data", "push", "a")
    assert ended.code == 0
    assert len(api.data) == 1
    assert ended.err.count("retrying in") == 2


def test_a_run_is_not_retried_again_when_the_answer_was_lost(knit, api):
    """It may have ended again meanwhile, and would be done a third time."""
    run, _ = api.add_run({}, {})
    api.interrupt[("PUT", f"/runs/{run.run_id}/retry")] = [CUT]
    assert knit("run", "retry", run.run_id).code == 1
    assert len(api.requests) == 1


def test_a_certificate_is_not_tried_again(knit, api):
    problem = httpx.ConnectError("x")
    problem.__cause__ = ssl.SSLCertVerificationError(1, "self-signed")
    api.interrupt[("GET", "/runs")] = [raising(problem)]
    assert knit("run", "find").code == 1
    assert knit.slept == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"message": {"reason": "why", "advice": "do", "see": "x"}}', "reason: why\nhint: do\n"),
        ('{"message": "why\\nmore"}', "reason: why\n    more\n"),
        ('{"reason": "why"}', "reason: why\n"),
        ('{"message": {"odd": 1}}', 'reason: {"message": {"odd": 1}}\n'),
        ("plain", "reason: plain\n"),
        ("", "reason: HTTP status 500 Internal Server Error\n"),
        ("\x1b[2J\x07evil", "reason: ?[2J?evil\n"),
    ],
)
def test_error_bodies_of_every_shape_are_shown(knit, api, body, said):
    api.interrupt[("GET", "/runs")] = [httpx.Response(500, text=body)]
    ended = knit("run", "find")
    assert ended.code == 1
    assert said in ended.err


@pytest.mark.parametrize("text", ["", "Moved", "<html>"])
def test_a_redirect_is_no_answer(knit, api, text):
    """It is not followed, so that nobody else gets the token; where it leads is said."""
    there = {"Location": "https://knit.example/api"}
    api.interrupt[("GET", "/runs")] = [httpx.Response(302, headers=there, text=text)]
    ended = knit("run", "find")
    assert ended.code == 1
    assert (
        "hint: check apiRoot in the profile: it redirects to https://knit.example/api" in ended.err
    )


# ------------------------------------------------------------ trouble with the program


def test_a_bug_shows_no_traceback_but_keeps_one(knit, api, tmp_path):
    api.interrupt[("GET", "/runs")] = [raising(ZeroDivisionError("a bug"))]
    ended = knit("run", "find")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "reason: ZeroDivisionError: a bug" in ended.err
    file = Path(ended.err.partition("with the file ")[2].strip())
    assert "Traceback" in file.read_text()
    file.unlink()


def test_a_bug_on_a_full_disk_is_told_too(knit, api, monkeypatch):
    """What goes wrong while telling of it must not become a traceback."""

    def full(**_kind):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    api.interrupt[("GET", "/runs")] = [raising(ZeroDivisionError("inside"))]
    ended = knit("run", "find")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == (
        "error: knit failed because of a bug\n"
        "reason: ZeroDivisionError: inside\n"
        "hint: please report it with the command you typed\n"
    )


def test_a_proxy_that_does_not_accept_in_time_is_told_in_words(knit, api):
    knit.variables["ALL_PROXY"] = "http://proxy.test:3128"
    api.interrupt[("GET", "/runs")] = [raising(httpx.ConnectTimeout("timed out"))] * 3
    ended = knit("run", "find")
    assert ended.code == 1
    assert (
        "error: the proxy http://proxy.test:3128 (from ALL_PROXY) does not answer\n"
        "reason: the connection was not accepted in time\n"
    ) in ended.err


def test_a_folder_that_is_gone_is_told_in_words(tmp_path):
    gone = tmp_path / "gone"
    command = f"mkdir {gone}; cd {gone}; rmdir {gone}; {sys.executable} -m knit_cli version"
    environment = {**os.environ, **bare_environment()}
    ended = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env=environment
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    assert "current folder no longer exists" in ended.stderr


def test_interrupting_ends_cleanly_with_1(knit, api):
    api.interrupt[("GET", "/runs")] = [raising(KeyboardInterrupt())]
    ended = knit("run", "find")
    assert (ended.code, ended.out, ended.err) == (1, b"", "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["data"], 2),
        (["data", "nonsense"], 2),
        (["--help"], 0),
        (["-h"], 0),
        (["data", "--help"], 0),
        (["data", "push", "--help"], 0),
    ],
)
def test_usage(bare_knit, arguments, code):
    ended = bare_knit(*arguments)
    assert ended.code == code
    assert "Usage: knit" in (ended.err if code else ended.out.decode())


def test_a_typing_error_is_met_with_the_near_name(bare_knit):
    assert "Did you mean 'data'?" in bare_knit("dta").err


def test_version_has_no_line_end(bare_knit):
    ended = bare_knit("version")
    assert ended.out.startswith(b"v")
    assert ended.out.endswith(b")")


def test_the_version_flag_gives_name_and_number(bare_knit):
    ended = bare_knit("--version")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.decode() == f"knit {metadata.version('knit')}\n"


@pytest.mark.patient
def test_license_names_what_is_used(bare_knit):
    text = bare_knit("license").out.decode()
    assert "knit: Apache-2.0" in text


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")  # said by what `knit dev` imports
@pytest.mark.parametrize("name", KnitGroup.entries)
def test_every_command_has_a_help_page(bare_knit, name):
    ended = bare_knit(name, "--help")
    assert ended.code == 0
    assert f"Usage: knit {name}" in ended.out.decode()


@pytest.mark.patient
def test_help_imports_nothing_that_carries_out_a_command():
    """A measured need: with that the help takes four times as long.

    Typer itself takes pydantic for the flags before the name of a command.
    """
    program = (
        "import sys; from pathlib import Path\n"
        "from knit_cli.main import KnitGroup, run; from knit_cli.invocation import Surroundings\n"
        "def imported_by(*words):\n"
        "    assert run(words, Surroundings(cwd=Path.cwd())) == 0\n"
        "    assert 'knit_cli.main' in sys.modules\n"
        "    return set(sys.modules)\n"
        "heavy = {'httpx', 'yaml', 'rich', 'asyncio', 'psutil', 'knit_workflows.wire'}\n"
        "found = imported_by('--help') & (heavy | {'pydantic'})\n"
        "assert not found, found\n"
        "for name in ('data', 'plan', 'run', 'hook', 'dev', 'admin'):\n"
        "    found = imported_by(name, '--help') & heavy\n"
        "    assert not found, (name, found)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)


NOUNS = (nouns.DataGroup, nouns.PlanGroup, nouns.RunGroup, nouns.HookGroup, nouns.DevGroup)


@pytest.mark.parametrize("group", NOUNS)
def test_every_command_of_a_noun_is_listed(group):
    """Those that are loaded when they are used are those that there are."""
    [target] = {entry.target for entry in group.entries.values()}
    module, _, attribute = target.partition(":")
    made = get_group(getattr(import_module(module), attribute))
    assert made.commands.keys() == group.entries.keys()
    for name, entry in group.entries.items():
        assert made.commands[name].help.split()[0] == entry.help.split()[0]


@pytest.mark.patient
def test_a_reader_that_leaves_early_is_no_trouble(tmp_path):
    """`knit license | head -1`: the real program on a real pipe."""
    command = f"{sys.executable} -m knit_cli license | head -c 1"
    ended = subprocess.run(command, shell=True, capture_output=True, cwd=tmp_path, check=False)
    assert ended.stderr == b""


def test_starting_is_quick():
    """A command loads nothing enormous: no server, no database, no Temporal, no cluster."""
    script = (
        "import sys\n"
        "from knit_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], check=True, capture_output=True, text=True
    )
    enormous = {"fastapi", "kubernetes", "psycopg", "sqlalchemy", "sqlmodel", "temporalio"}
    assert "knit_cli" in done.stderr
    assert not {name for name in enormous if f"'{name}'" in done.stderr}


# ------------------------------------------------------------ what stands between


PAGE = "<html><head><title>413 Request Entity\nToo&nbsp;Large</title></head><h1>no</h1></html>"


def page(status: int, text: str = PAGE, **headers: str) -> httpx.Response:
    return httpx.Response(status, html=text, headers=headers)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (301, "check apiRoot in the profile: it redirects to "),
        (400, "no proxy or login page is in between"),
        (401, "administrator"),
        (403, "administrator"),
        (404, "apiRoot in the profile"),
        (405, "another version"),
        (407, "user and password"),
        (408, "timeouts of the proxy"),
        (413, "client_max_body_size"),
        (414, "ask for less at once"),
        (415, "another version"),
        (421, "host name of apiRoot"),
        (429, "send fewer requests"),
        (431, "raise the header size limit"),
        (500, "no proxy or login page is in between"),
        (502, "check that the API runs"),
        (503, "try again later"),
        (504, "raise the timeouts"),
        (507, "free space for Data"),
        (511, "with a browser"),
    ],
)
def test_the_hint_fits_what_a_proxy_says(knit, api, status, hint):
    api.interrupt[("GET", "/runs")] = [page(status, Server="nginx") for _ in range(9)]
    ended = knit("run", "find")
    assert ended.code == 1
    assert hint in ended.err
    assert "correct the command" not in ended.err
    assert f"but from something in between (nginx): HTTP status {status}" in ended.err


def test_a_page_without_a_title_is_told_by_its_status(knit, api):
    api.interrupt[("GET", "/runs")] = [page(410, "<p>gone")]
    said = "but from something in between: HTTP status 410 Gone\n"
    assert said in knit("run", "find").err


def test_the_time_a_proxy_asks_for_is_told(knit, api):
    api.interrupt[("PUT", "/runs/r/abort")] = [httpx.Response(429, headers={"Retry-After": "30"})]
    assert "hint: try again in 30 s\n" in knit("run", "stop", "r", "--fail").err


def test_reading_waits_while_a_proxy_finds_no_api(knit, api):
    api.interrupt[("GET", "/runs")] = [page(502), httpx.Response(429)]
    assert knit("run", "find").code == 0
    assert knit.slept_for(0.5, 1.0)


# ------------------------------------------------------------ trouble with this machine


def test_whatever_the_system_refuses_has_a_reason_and_a_hint(knit, api):
    api.interrupt[("GET", "/runs")] = [raising(OSError(22, "Invalid argument", "/x\x07"))]
    ended = knit("run", "find")
    assert ended.code == 1
    assert ended.err == (
        "error: the operating system refused something that knit needs\n"
        "reason: the file system does not take this: /x?\n"
        "hint: check the name for characters that are special there, or choose a place on another "
        "file system\n"
    )


def test_a_loop_of_links_is_not_called_unreadable(knit, api):
    knit.write("folder/file", "x")
    (knit.cwd / "folder" / "loop").symlink_to("loop")
    ended = knit("data", "push", "--dereference", "folder")
    assert ended.code == 1
    assert "reason: the link leads to itself\n" in ended.err
    assert (
        "hint: push without --dereference to keep it as a link; nothing was uploaded\n" in ended.err
    )
    assert "readable" not in ended.err


def test_a_right_that_is_missing_is_not_called_a_lack_of_room(knit, api, monkeypatch):
    data = api.add_data()

    def refused(*_arguments, **_more):
        raise PermissionError(13, "Permission denied", "/there")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    ended = knit("data", "pull", data.knit_id)
    assert ended.code == 1
    assert "reason: Permission denied: /there\n" in ended.err
    assert "hint: get the right to it" in ended.err
    assert "room" not in ended.err
