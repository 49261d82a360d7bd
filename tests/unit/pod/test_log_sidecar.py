"""The log sidecar against a server that plays the Kubernetes API, in its good and bad moments."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from knit_workflows.pod import log_sidecar
from knit_workflows.pod.kube_api import KubeApi, KubeApiError, KubeApiRefused
from knit_workflows.pod.log_splice import NotALog
from knit_workflows.pod.termination import write_notes
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[3]
START = 1_700_000_000
CUT = object()  # in a log: the connection breaks here


def moment(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def stamp(second: float) -> bytes:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START + int(second)))
    return f"{whole}.{int(second % 1 * 1e9):09d}Z ".encode()


def pod(
    state: str | None,
    phase: str = "Running",
    kind: str = "MODIFIED",
    started: float = 0,
) -> dict[str, Any]:
    """A watch event for a pod whose container `main` is in this state, since an instant maybe."""
    since = {"startedAt": f"{moment(int(started)).decode()}Z"} if started else {}
    statuses = [] if state is None else [{"name": "main", "state": {state: since}}]
    return {
        "type": kind,
        "object": {
            "spec": {"containers": [{"name": "main"}, {"name": "nurse"}]},
            "status": {"phase": phase, "containerStatuses": statuses},
        },
    }


class Api(ThreadingHTTPServer):
    """Answers watches and log readings from two scripts, one item per request.

    A watch is a list of events; a log is a list of pieces, calls (to wait for something) and CUT.
    A number instead is an HTTP status. The last item of a script is repeated.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.watches: list[Any] = [[pod("running")]]
        self.logs: list[Any] = [[]]
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tokens: list[str] = []
        self.token = iter(f"token-{n}" for n in range(10_000))

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave; that is no error here."""

    def api(self) -> KubeApi:
        port = self.server_address[1]
        return KubeApi(
            lambda: HTTPConnection("127.0.0.1", port, timeout=PATIENCE), lambda: next(self.token)
        )

    def of(self, path_end: str) -> list[dict[str, str]]:
        return [query for path, query in self.requests if path.endswith(path_end)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.requests.append((url.path, query))
        self.server.tokens.append(self.headers["Authorization"])
        script = self.server.watches if "watch" in query else self.server.logs
        item = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(item, int):
            body = json.dumps({"kind": "Status", "message": f"scripted {item}"}).encode()
            self.send_response(item)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in item:
            if part is CUT:
                self.close_connection = True
                return
            if callable(part):
                part()
                continue
            piece = part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def server() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def without_pauses() -> log_sidecar.RetryPolicy:
    return log_sidecar.RetryPolicy(sleep=lambda seconds: None)


@pytest.fixture
def record(server: Api, tmp_path: Path) -> Callable[[], bytes]:
    def record() -> bytes:
        path = tmp_path / "log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            log_sidecar.LogRecorder(server.api(), "ns", "pod-1", "main", without_pauses()).record(
                descriptor
            )
        finally:
            os.close(descriptor)
        return path.read_bytes()

    return record


def lines(first: int, last: int) -> list[bytes]:
    return [stamp(n / 4) + b"line %d\n" % n for n in range(first, last)]


def plain(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % n for n in range(first, last))


def test_a_log_is_recorded_as_it_is(server: Api, record) -> None:
    server.logs = [
        [stamp(1) + b"\x00\xff\r binary\n" + stamp(1) + b"\n" + stamp(2) + b"no end"]
    ] * 2
    assert record() == b"\x00\xff\r binary\n\nno end"
    watch, log, _ = server.requests
    assert watch[0] == "/api/v1/namespaces/ns/pods"
    assert watch[1]["fieldSelector"] == "metadata.name=pod-1"
    assert log[0] == "/api/v1/namespaces/ns/pods/pod-1/log"
    assert log[1] == {"container": "main", "follow": "true", "timestamps": "true"}


def test_an_empty_log_is_an_empty_file(record) -> None:
    assert record() == b""


@pytest.mark.parametrize("state", ["running", "terminated"])
@pytest.mark.parametrize(
    ("log", "marked"),
    [
        ([[]], True),
        ([[CUT], 500, []], True),
        ([[30]], True),
        ([[1]], False),
    ],
)
def test_a_log_that_was_read_late_may_have_lost_its_start(
    server: Api, record, state: str, log: list[Any], marked: bool
) -> None:
    """The node may have rotated it away, and a kubelet reads the newest file only.

    A number is a line that was written so many seconds after the start.
    """
    started = int(time.time()) - 60
    server.watches = [[pod(state, started=started)]]
    server.logs = [
        [
            b"%s.0Z line\n" % moment(started + part) if isinstance(part, int) else part
            for part in one
        ]
        if isinstance(one, list)
        else one
        for one in log
    ]
    text = b"[knit: the start of the log may be missing, rotated away on the node]\n"
    assert (text in record()) is marked


@pytest.mark.parametrize("log", [[[]], [[CUT], []], [[], 500, []], [500, 500, []]])
def test_a_program_that_wrote_nothing_and_was_read_at_once_has_an_empty_log(
    server: Api, record, log: list[Any]
) -> None:
    server.watches = [[pod("running", started=time.time() + PATIENCE)]]
    server.logs = log
    assert record() == b""


def test_the_start_is_waited_for_without_asking_for_the_log(server: Api, record) -> None:
    waiting = [pod(None, "Pending", "ADDED"), pod("waiting", "Pending"), pod("waiting")]
    untold = [[b"{no event}\n"], [{"type": "ERROR", "object": {"message": "etcd"}}]]
    server.watches = [waiting, 500, 429, [CUT], [b"{broken"], *untold, [*waiting, pod("running")]]
    server.logs = [lines(0, 3)]
    assert record() == plain(0, 3)
    assert [path.endswith("/log") for path, _ in server.requests] == [False] * 8 + [True] * 2


def test_a_container_that_has_ended_already_is_read(server: Api, record) -> None:
    server.watches = [[pod("terminated", "Succeeded", "ADDED")]]
    server.logs = [lines(0, 3)]
    assert record() == plain(0, 3)


@pytest.mark.parametrize("event", [pod(None, "Failed"), pod("waiting", "Pending", "DELETED")])
def test_a_pod_that_ends_before_its_container_starts_has_no_log(server, record, event) -> None:
    server.watches = [[event]]
    assert record() == b""
    assert server.of("/log") == []


def test_cut_in_a_line_it_goes_on_in_that_line(server: Api, record) -> None:
    whole = lines(0, 20)
    server.logs = [
        [*whole[:7], whole[7][:33], CUT],
        500,
        [*whole[:7], whole[7][:35], CUT],
        [*whole[:9], whole[9][:3], CUT],
        [*whole[4:15], CUT],
        [*whole[8:20]],
    ]
    server.logs.append([*whole[12:20]])
    assert record() == plain(0, 20)
    since = [query.get("sinceTime") for query in server.of("/log")]
    assert since[0] is None
    assert since[2] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START))


def test_a_log_that_ends_while_the_container_runs_is_asked_for_again(server: Api, record) -> None:
    """An API server that shuts down ends the stream as if the log had ended."""
    whole = lines(0, 9)
    server.logs = [whole[:3], whole[:5], whole[:9], whole[4:9]]
    assert record() == plain(0, 9)


def test_the_kubelets_own_words_do_not_get_into_the_log(server: Api, record) -> None:
    problem = b"failed to create fsnotify watcher: too many open files"
    server.logs = [[problem], [*lines(0, 3), problem], [*lines(0, 5)], [*lines(0, 5)]]
    assert record() == plain(0, 5)


def test_very_long_lines_come_out_whole(server: Api, record) -> None:
    """The runtime stores them in pieces of 16 KiB, of which only the first is stamped."""
    long = os.urandom(300_000).replace(b"\n", b"")
    sent = stamp(1) + long + b"\n"
    pieces = [sent[at : at + 16384] for at in range(0, len(sent), 16384)]
    server.logs = [[*pieces[:9], CUT], [*pieces[:4], CUT], pieces, pieces]
    assert record() == long + b"\n"


def test_a_token_is_read_for_every_request(server: Api, record) -> None:
    server.logs = [500, 500, lines(0, 1)]
    record()
    assert server.tokens == [f"Bearer token-{n}" for n in range(len(server.requests))]


def test_what_is_written_can_be_followed_live(server: Api) -> None:
    reader, writer = os.pipe()
    seen = [threading.Event(), threading.Event()]
    first, second = lines(0, 2)
    server.logs = [
        [
            first[:35],
            lambda: seen[0].wait(PATIENCE),
            first[35:],
            lambda: seen[1].wait(PATIENCE),
            second,
        ],
        [first, second],
    ]
    running = log_sidecar.LogRecorder(server.api(), "ns", "pod-1", "main", without_pauses())
    thread = threading.Thread(target=running.record, args=(writer,))
    thread.start()
    assert os.read(reader, 100) == first[31:35]
    seen[0].set()
    assert os.read(reader, 100) == first[35:]
    seen[1].set()
    assert os.read(reader, 100) == b"line 1\n"
    thread.join(PATIENCE)
    os.close(reader)
    os.close(writer)


def test_an_unreachable_api_is_tried_again(server: Api, tmp_path: Path) -> None:
    attempts = iter([1, 1])  # two refused connections: port 1 has no server
    port = server.server_address[1]
    api = KubeApi(lambda: HTTPConnection("127.0.0.1", next(attempts, port)), lambda: "t")
    server.logs = [lines(0, 2)]
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log_sidecar.LogRecorder(api, "ns", "pod-1", "main", without_pauses()).record(log.fileno())
    assert (tmp_path / "log").read_bytes() == plain(0, 2)


def test_a_pod_whose_account_cannot_be_read_does_not_reach_the_api(tmp_path: Path) -> None:
    api = KubeApi.from_pod({"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, tmp_path / "nothing")
    with pytest.raises(KubeApiError, match=r"cannot prepare a connection: .*No such file"):
        list(api.stream("/", {}))


@pytest.mark.parametrize(
    ("head", "body", "words"),
    [
        (b"Content-Length: 5", b"abc", "the connection was cut$"),
        (b"Transfer-Encoding: chunked", b"5\r\nabc", "the connection was cut: IncompleteRead"),
    ],
)
def test_a_body_that_ends_early_is_cut(head: bytes, body: bytes, words: str) -> None:
    """Whichever way its end was announced."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        api = KubeApi(lambda: HTTPConnection("127.0.0.1", port, timeout=PATIENCE), lambda: "t")
        with pytest.raises(KubeApiError, match=words):
            list(api.stream("/", {}))
        thread.join()


def test_pauses_grow_and_refusals_end_after_a_minute() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def patience() -> log_sidecar.RetryPolicy:
        now[0] = 0.0
        slept.clear()
        return log_sidecar.RetryPolicy(sleep=sleep, clock=lambda: now[0])

    endless = patience()
    for _ in range(200):
        endless.failed(KubeApiError("away"))
    assert slept[0] <= 0.1
    assert 7.5 <= max(slept) <= 15
    for refusal in (KubeApiRefused(403, "no"), NotALog("no")):
        refused = patience()
        with pytest.raises(log_sidecar.GivenUp):
            for _ in range(200):
                refused.failed(refusal)
        assert 60 < now[0] < 90
    forgiven = patience()
    for _ in range(200):
        forgiven.failed(KubeApiRefused(403, "no"))
        forgiven.succeeded()


Process = subprocess.Popen[bytes]
SCRIPT = """
import sys
from http.client import HTTPConnection
from knit_workflows.pod import log_sidecar
from knit_workflows.pod.kube_api import KubeApi
port, log, termination_log, refused, outputs = sys.argv[1:]
api = KubeApi(lambda: HTTPConnection("127.0.0.1", int(port), timeout=100), lambda: "token")
environ = {"NAMESPACE": "ns", "POD_NAME": "pod-1", **({"OUTPUTS": outputs} if outputs else {})}
arguments = (["main", log], environ, api, termination_log, float(refused))
sys.exit(log_sidecar.main(*arguments))
"""


@pytest.fixture
def process(server: Api, tmp_path: Path) -> Callable[..., Process]:
    (tmp_path / "termination-log").touch()

    def process(log: Path, refused: float = 60, outputs: str = "") -> Process:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(server.server_address[1]), log,
             tmp_path / "termination-log", str(refused), outputs],
            cwd=REPOSITORY, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    return process


@pytest.mark.patient
def test_as_a_process_it_ends_with_zero(server: Api, process, tmp_path: Path) -> None:
    server.logs = [lines(0, 3)]
    assert process(tmp_path / "log").wait(PATIENCE) == 0
    assert (tmp_path / "log").read_bytes() == plain(0, 3)
    assert (tmp_path / "termination-log").read_text() == ""


@pytest.mark.patient
def test_it_tells_what_of_the_outputs_cannot_be_kept(server: Api, process, tmp_path: Path) -> None:
    """A line for each output that has such a thing; one that is not there is no failure."""
    server.logs = [lines(0, 3)]
    for name in ("fine", "not"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "outputs" / "not" / "s"))
    outputs = {f"/{name}": f"{tmp_path}/outputs/{name}" for name in ("fine", "not", "gone")}
    assert process(tmp_path / "log", outputs=json.dumps(outputs)).wait(PATIENCE) == 0
    assert (tmp_path / "termination-log").read_text() == (
        "output /not: 1 socket is not kept: s\n"
        "output /gone: it was not scanned to the end: No such file or directory\n"
    )


def noted(tmp_path: Path, *lines: str) -> list[str]:
    log = tmp_path / "termination-log"
    log.write_bytes(b"")
    write_notes(list(lines), str(log))
    content = log.read_bytes()
    assert len(content) <= 4096  # Kubernetes reads no more
    *whole, end = content.decode().split("\n")
    assert end == ""
    return whole


def test_notes_that_fit_are_whole(tmp_path: Path) -> None:
    lines = ["x" * 2047, "y" * 2047]
    assert noted(tmp_path, *lines) == lines
    assert noted(tmp_path, "x" * 4095) == ["x" * 4095]


def test_a_long_note_is_cut_and_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    """Each has a share, and what others leave of theirs."""
    assert noted(tmp_path, "é" * 5000) == ["é" * 2046 + "…"]
    assert noted(tmp_path, "x" * 5000, "short", "last") == [f"{'x' * 4081}…", "short", "last"]
    assert noted(tmp_path, "short", "é" * 5000, "last") == ["short", "é" * 2040 + "…", "last"]
    thirds = noted(tmp_path, "x" * 2000, "y" * 2000, "z" * 2000)
    assert [line[0] + line[-1] for line in thirds] == ["x…", "y…", "z…"]
    assert all(len(line.encode()) > 1360 for line in thirds)
    many = noted(tmp_path, *(f"{number:03} " + "x" * 300 for number in range(200)))
    assert len(many) == 51
    assert all(len(line.encode()) == 79 for line in many[:-1])


def test_a_log_that_exists_is_not_overwritten(process, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old")
    assert process(tmp_path / "log").wait(PATIENCE) == 1
    assert "exists" in (tmp_path / "termination-log").read_text()
    assert (tmp_path / "log").read_bytes() == b"old"


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("of", ["watches", "logs"])
@pytest.mark.patient
def test_lasting_refusal_is_explained_and_no_failure(
    server: Api, process, tmp_path: Path, status: int, of: str
) -> None:
    """Result and outputs of the Run are there; its log says what it lacks."""
    setattr(server, of, [status])
    assert process(tmp_path / "log", refused=0.3).wait(PATIENCE) == 0
    note = (tmp_path / "termination-log").read_text()
    assert note.startswith("log: it is incomplete: ") and f"scripted {status}" in note
    marked = (tmp_path / "log").read_text()
    assert marked.startswith("[knit: the rest of the log not received: ") and marked.endswith("]\n")


def test_a_container_the_pod_does_not_have_is_explained(server, process, tmp_path: Path) -> None:
    event = pod("running")
    event["object"]["spec"]["containers"] = [{"name": "other"}]
    server.watches = [[event]]
    assert process(tmp_path / "log").wait(PATIENCE) == 0
    assert "no container 'main'" in (tmp_path / "termination-log").read_text()


@pytest.mark.patient
def test_what_was_rotated_away_is_marked_and_noted(server: Api, process, tmp_path: Path) -> None:
    """A leap to a line that was there when the one before came, after more than a file's start."""
    past = int(time.time()) - 60
    before = [b"%s.0Z %s\n" % (moment(past), b"x" * 1000)] * 1100
    server.logs = [[*before, b"%s.5Z late\n" % moment(past + 12)]]
    assert process(tmp_path / "log").wait(PATIENCE) == 0
    *_, last, mark, late = (tmp_path / "log").read_bytes().splitlines()
    assert (last, late) == (b"x" * 1000, b"late")
    assert mark == b"[knit: up to 12.5 s of the log not received, rotated away on the node]"
    note = (tmp_path / "termination-log").read_text()
    assert note.startswith("log: it is incomplete: a part of it was rotated away on the node")


@pytest.mark.patient
def test_a_kubelet_that_waits_at_the_end_of_an_old_file_is_asked_again(
    server: Api, process, tmp_path: Path
) -> None:
    past = int(time.time()) - 60
    old = [b"%s.0Z %s\n" % (moment(past), b"x" * 1000)] * 1100
    waiting = threading.Event()
    new = [b"%s.5Z new\n" % moment(past)]
    server.logs = [[*old, lambda: waiting.wait(PATIENCE)], new, new]
    try:
        assert process(tmp_path / "log").wait(PATIENCE) == 0
    finally:
        waiting.set()
    assert (tmp_path / "log").read_bytes() == (b"x" * 1000 + b"\n") * 1100 + b"new\n"
    assert (tmp_path / "termination-log").read_text() == ""


@pytest.mark.patient
def test_after_sigterm_it_reads_on_until_the_program_has_ended(
    server: Api, process, tmp_path: Path, until
) -> None:
    """Which may be granted minutes."""
    told = threading.Event()
    server.logs = [[*lines(0, 2), lambda: told.wait(PATIENCE), *lines(2, 4)], lines(0, 4)]
    running = process(tmp_path / "log")
    until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_bytes() == plain(0, 2))
    running.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(6)
    told.set()
    assert running.wait(PATIENCE) == 0
    assert (tmp_path / "log").read_bytes() == plain(0, 4)
    assert (tmp_path / "termination-log").read_text() == ""


MARK = "[knit: the rest of the log not received: stopped]\n"


@pytest.mark.patient
@pytest.mark.parametrize(
    ("knows", "log", "note"),
    [(True, "", ""), (False, MARK, "log: it is incomplete: stopped\n")],
)
def test_after_sigterm_it_does_not_wait_for_a_start(
    server: Api, process, tmp_path: Path, until, *, knows: bool, log: str, note: str
) -> None:
    """If the API does not say that the program has not started, it may have."""
    kept = threading.Event()
    server.watches = [[pod("waiting"), lambda: kept.wait(PATIENCE)]] if knows else [503]
    running = process(tmp_path / "log")
    until(lambda: server.requests)
    time.sleep(0.5)  # it has heard the answer
    running.send_signal(signal.SIGTERM)
    try:
        assert running.wait(PATIENCE) == 0
    finally:
        kept.set()
    assert (tmp_path / "log").read_text() == log
    assert (tmp_path / "termination-log").read_text() == note


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [([], {}), (["main"], {}), (["main", "/x"], {}), (["main", "/x"], {"NAMESPACE": "n"})],
)
def test_wrong_use_is_told(arguments: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "told").touch()
    assert log_sidecar.main(arguments, environ, termination_log=str(tmp_path / "told")) == 2
    assert (tmp_path / "told").read_text().startswith("log sidecar: ")


def test_the_real_way_in_checks_the_servers_certificate(server: Api, tmp_path: Path) -> None:
    """As in a pod: TLS with the account's ca.crt, the token from its file."""
    import ssl

    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", tmp_path / "key", "-out", tmp_path / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "token").write_text("from-file\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.logs = [lines(0, 2)]
    environ = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.server_address[1]),
    }
    api = KubeApi.from_pod(environ, tmp_path)
    with (tmp_path / "log").open("wb", buffering=0) as log:
        log_sidecar.LogRecorder(api, "ns", "pod-1", "main", without_pauses()).record(log.fileno())
    assert (tmp_path / "log").read_bytes() == plain(0, 2)
    assert set(server.tokens) == {"Bearer from-file"}
