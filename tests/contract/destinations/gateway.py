"""A real S3 server of our own: versitygw, built from its Go module, which keeps a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.embedded import free_port
from knit_workflows.provision.cache import SetUpError
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from tests.waiting import wait_until

BUCKET: Final = "backups"
_VERSITY: Final = "github.com/versity/versitygw"
PROGRAM: Final = GoPrograms(
    name="versitygw-1.8.0",
    module=Path(__file__).parent / "programs",
    packages=(f"{_VERSITY}/cmd/versitygw",),
    takes="one to three minutes, once",
)


@dataclass(frozen=True)
class Gateway:
    """A server, and the variables with which clients find it."""

    process: subprocess.Popen[bytes]
    variables: dict[str, str]


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """Serves a folder with one bucket."""
    program = build_if_needed(PROGRAM) / "versitygw"
    for part in ("data", "side", f"data/{BUCKET}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": "tester", "ROOT_SECRET_KEY": "for-tests-only"}
    # What it notes of objects goes beside them: not every file system keeps extended attributes.
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet"]
    command += ["posix", "--sidecar", folder / "side", folder / "data"]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (folder / "gateway.log").read_text()
        yield Gateway(
            process,
            {
                "AWS_ACCESS_KEY_ID": keys["ROOT_ACCESS_KEY"],
                "AWS_SECRET_ACCESS_KEY": keys["ROOT_SECRET_KEY"],
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            },
        )
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Builds it, so that no test has to wait for it."""
    try:
        print(build_if_needed(PROGRAM))
    except SetUpError as error:
        sys.exit(f"versitygw: {error}")


if __name__ == "__main__":
    main()
