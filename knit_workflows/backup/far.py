"""`python -m knit_workflows.backup.far`: the installation's side of a backup, in a pod of its own.

It speaks frames on stdin and stdout, and is started by `knit admin backup` and `restore`; database
and back-end are those of its environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.frames import Frame, read_frames, write_frames
from knit_workflows.backup.pods import TRANSFER_ID, PodVolumes, served_by_pods
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Wanted
from knit_workflows.domain.quantities import parse_quantity
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.store.inspection.hashes import SeenContent

_OF_VOLUMES: Final = ("volumes", "make-volumes", "hash-volumes")
_OF_DATABASE: Final = (
    "database", "still-there", "look", "load", "known-contents", "record-contents",
)  # fmt: skip
VERBS: Final = _OF_DATABASE + _OF_VOLUMES


def main(arguments: Sequence[str] | None = None) -> None:
    """Does one thing and ends: with 1 if the pipe broke, with 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="python -m knit_workflows.backup.far")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--storage-class", help="of the volumes that are made")
    parser.add_argument(
        "--transfers", default=TRANSFER_ID, help="what names of transfer pods end with"
    )
    options = parser.parse_args(arguments)
    try:
        settings = read_settings()
    except SettingsRefused as refused:
        parser.error(str(refused))
    try:
        write_frames(_frames(settings, options), _write)
        sys.stdout.flush()
    except (BrokenPipeError, BackupProblem) as cut:
        parser.exit(1, f"error: {cut}\n")


def _frames(settings: Settings, options: argparse.Namespace) -> Iterator[Frame]:
    verb: str = options.verb
    url = settings.store.url.get_secret_value()
    if verb not in _OF_VOLUMES:
        yield from _of_database(DirectInstallation(url, shown="the database"), verb)
        return
    # Here, since it takes longer to load than what else is asked takes to answer.
    from knit_workflows.worker import backend_from

    usual = int(parse_quantity(settings.compute.kubernetes.initial_capacity))
    backend = backend_from(served_by_pods(settings.compute))
    volumes = PodVolumes(backend, options.storage_class, options.transfers, usual)
    with volumes.at_work():
        installation = DirectInstallation(url, volumes, shown=settings.compute.kind)
        if verb == "volumes":
            yield from installation.volumes(_wanted(json.load(sys.stdin)))
        elif verb == "hash-volumes":
            asked = json.load(sys.stdin)
            yield from installation.hash_volumes(
                _wanted(asked["wanted"]),
                with_pieces=asked["with_pieces"],
                seconds=asked["seconds"],
            )
        else:
            yield from installation.make_volumes(read_frames(sys.stdin.buffer.read))


def _of_database(installation: DirectInstallation, verb: str) -> Iterator[Frame]:
    match verb:
        case "database":
            yield from installation.database()
        case "still-there":
            yield {"there": sorted(installation.still_there(json.load(sys.stdin)))}
        case "look":
            yield asdict(installation.look())
        case "load":
            yield {"loaded": installation.load(read_frames(sys.stdin.buffer.read))}
        case "known-contents":
            for one in installation.known_contents(**json.load(sys.stdin)):
                yield asdict(one)
        case "record-contents":
            asked = json.load(sys.stdin)
            seen = [SeenContent(**one) for one in asked.pop("seen")]
            installation.record_contents(seen, **asked)
            yield {"recorded": len(seen)}


def _wanted(values: Sequence[dict[str, Any]]) -> list[Wanted]:
    return [Wanted(**one) for one in values]


def _write(body: bytes) -> None:
    sys.stdout.buffer.write(body)
    if len(body) > 1 << 16:  # a buffer would only copy it
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
