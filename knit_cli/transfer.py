"""Moves the files of a Data: push packs and uploads them, pull downloads and places them.

A Data arrives whole or not at all: an upload that cannot go on is cut, so that the server drops it,
and what is pulled shows under its name only when it is complete, whatever ends the command. A
download that ends before the archive does is an error, and begun anew: see `proof`.
"""

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from knit_api.schemas.data import Data
from knit_api.schemas.tags import Tag, TagChange
from knit_cli.client import GZIPPED_TAR, PLAIN_TAR, ApiClient
from knit_cli.errors import ApiRefused, BadInput, CliError, ConnectionCut, TransferFailed
from knit_cli.progress import Meter
from knit_cli.proof import hand_on, plain_tar
from knit_cli.streams import DamagedStream, PiecesReader, StreamCut, counted, gzipped, read_ahead
from knit_cli.workplace import put_in_place, sync, workplace
from knit_workflows.pod.archive import ArchiveCut, ArchiveRefused, CannotPack, iter_pack, unpack

_UNSUPPORTED_MEDIA_TYPE = 415
_NOTHING_SENT = "nothing was uploaded"
_TAR_BLOCK = 512  # bytes; a file takes one for its head, and its content in whole ones


@dataclass(frozen=True)
class Source:
    """A folder or file that can be pushed; `archive_bytes` is about what its tar will have."""

    path: Path
    archive_bytes: int

    @property
    def name(self) -> str:
        """The base name, also of `.` and `..`."""
        return Path(os.path.abspath(self.path)).name  # noqa: PTH100  resolve() would follow links


def survey(path: Path, shown: str, *, dereference: bool) -> Source:
    """Looks a push source through before anything is sent; reads no content.

    Args:
        path: where it is.
        shown: how the user wrote it, for messages.
        dereference: whether links are followed, as in the push itself.

    Raises:
        BadInput: it is missing, or something in it cannot be read.
    """
    total = 0
    try:
        info = path.stat()
        if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
            raise BadInput(
                f"cannot push {shown}",
                reason="it is neither a folder nor a file",
                advice=f"push a folder; {_NOTHING_SENT}",
            )
        for file, size in _files(path, info, dereference):
            if not os.access(file, os.R_OK):
                raise PermissionError(13, "Permission denied", str(file))
            total += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    except FileNotFoundError as cause:
        what = shown if cause.filename in (str(path), None) else f"{shown}: {cause.filename}"
        raise BadInput(
            f"cannot push {what}", reason="there is no such file or folder", advice=_NOTHING_SENT
        ) from cause
    except OSError as cause:
        raise BadInput(
            f"cannot push {shown}",
            reason=f"{cause.strerror}: {cause.filename}",
            advice=f"make it readable; {_NOTHING_SENT}",
        ) from cause
    return Source(path, total)


def _files(path: Path, info: os.stat_result, dereference: bool) -> Iterator[tuple[Path, int]]:
    if stat.S_ISREG(info.st_mode):
        yield path, info.st_size
        return
    seen = {(info.st_dev, info.st_ino)}
    waiting = [path]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=dereference)
                if stat.S_ISREG(found.st_mode):
                    yield Path(entry.path), found.st_size
                elif stat.S_ISDIR(found.st_mode) and (found.st_dev, found.st_ino) not in seen:
                    # A loop of links would never end here; packing reports it properly.
                    seen.add((found.st_dev, found.st_ino))
                    waiting.append(Path(entry.path))


def push(
    api: ApiClient, source: Source, tags: Sequence[Tag], *, dereference: bool, meter: Meter
) -> Data:
    """Uploads the source as one Data with these tags; the second call makes a second Data.

    The tags travel with the upload. Where they cannot (too many, or a server that does not know
    this) they follow in a second request, and for a moment the Data is there without them.

    Raises:
        TransferFailed: the files could not be packed to the end, or the tags did not arrive; then
            `see` is the id of the Data without them.
        CliError: the API did not take it.
    """
    together = list(tags) if api.tags_fit_in_upload(tags) else []
    try:
        data = _upload(api, source, PLAIN_TAR, together, dereference, meter)
    except ApiRefused as refused:
        if refused.status != _UNSUPPORTED_MEDIA_TYPE:
            raise
        # An older server: only gzip, and no tags in the query.
        data = _upload(api, source, GZIPPED_TAR, [], dereference, meter)
    missing = [tag for tag in tags if tag not in data.tags]
    if not missing:
        return data
    try:
        return api.change_tags(data.knit_id, TagChange(add=missing))
    except CliError as cause:
        raise TransferFailed(
            f"{source.path} was pushed as {data.knit_id}, but without its tags",
            reason=cause.reason or cause.summary,
            advice=f"tag it: knit data tag {data.knit_id} --add KEY:VALUE",
            see=data.knit_id,
        ) from cause


def _upload(
    api: ApiClient,
    source: Source,
    media_type: str,
    tags: Sequence[Tag],
    dereference: bool,
    meter: Meter,
) -> Data:
    def pack() -> Generator[bytes, None, None]:
        meter.restart()
        packed: Iterable[bytes] = counted(_archive(source, dereference), meter.add)
        return read_ahead(gzipped(packed) if media_type == GZIPPED_TAR else packed)

    try:
        return api.upload(pack, media_type, tags)
    except CannotPack as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=str(cause),
            advice="take it out, or push a copy; nothing of this upload is kept",
        ) from cause
    except OSError as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=f"{cause.strerror}: {cause.filename}",
            advice="nothing of this upload is kept; push again when the file can be read",
        ) from cause


def _archive(source: Source, dereference: bool) -> Iterable[bytes]:
    # The source itself may be a link, even where links inside stay links: a folder is meant as
    # such, and a file, packed as a folder with only that file in it, keeps the link's name.
    if source.path.is_dir():
        return iter_pack(source.path.resolve(), dereference=dereference)
    return iter_pack(source.path, dereference=True)


def pull_folder(api: ApiClient, knit_id: str, folder: Path, *, meter: Meter) -> Path:
    """Downloads a Data and unpacks it as `folder/KNIT_ID`, which appears when it is complete.

    A download whose connection breaks is begun anew.

    Raises:
        BadInput: there is already something there.
        TransferFailed: the archive is damaged or dangerous, or cannot be stored.
        CliError: the API did not give it.
    """
    target = folder / knit_id
    _refuse_occupied(target)

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, f"{PLAIN_TAR}, {GZIPPED_TAR};q=0.5") as stream,
            workplace(folder) as content,
        ):
            meter.restart()
            content.mkdir()
            with closing(plain_tar(stream, meter.add)) as pieces:
                unpack(PiecesReader(pieces), content, sync=True)
            put_in_place(content, target)

    api.when_cut_again(attempt, repeatable=True)
    return target


def pull_file(api: ApiClient, knit_id: str, folder: Path, *, meter: Meter) -> Path:
    """Downloads a Data as `folder/KNIT_ID.tar.gz`, which is replaced only when all is there.

    A download whose connection breaks is begun anew.

    Raises:
        TransferFailed: the archive is damaged, or cannot be stored.
        CliError: the API did not give it.
    """
    target = folder / f"{knit_id}.tar.gz"

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, GZIPPED_TAR) as stream,
            workplace(folder) as archive,
        ):
            meter.restart()
            with archive.open("wb") as file:
                hand_on(stream, meter.add, file.write)
            sync(archive)
            put_in_place(archive, target)

    api.when_cut_again(attempt, repeatable=True)
    return target


def pull_stream(
    api: ApiClient, knit_id: str, write: Callable[[bytes], None], *, meter: Meter
) -> None:
    """Downloads a Data as tar.gz and hands it on piece by piece.

    What was handed on cannot be taken back: only before that is a broken connection tried again.

    Raises:
        TransferFailed: the archive is damaged.
        CliError: the API did not give it, or not all of it.
    """
    handed_on = False

    def writing(piece: bytes) -> None:
        nonlocal handed_on
        handed_on = True
        write(piece)

    def attempt() -> None:
        try:
            with _reading(knit_id), api.download(knit_id, GZIPPED_TAR) as stream:
                meter.restart()
                hand_on(stream, meter.add, writing)
        except ConnectionCut as cut:
            cut.harmless = not handed_on
            if handed_on:
                cut.advice = "what was written to stdout is not all of it: drop it, and pull again"
            raise

    api.when_cut_again(attempt, repeatable=False)


def _refuse_occupied(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    raise BadInput(
        f"{target} is there already",
        reason="pulling into it would mix two things",
        advice="remove it, or pull into another folder: knit data pull -x KNIT_ID DEST",
    )


@contextmanager
def _placing(knit_id: str, folder: Path) -> Iterator[None]:
    """Translates what goes wrong between the API and the folder."""
    try:
        with _reading(knit_id):
            yield
    except OSError as cause:
        raise TransferFailed(
            f"cannot pull {knit_id} into {folder}",
            reason=cause.strerror or str(cause),
            advice="nothing was left behind; make room, or choose another DEST",
        ) from cause


@contextmanager
def _reading(knit_id: str) -> Iterator[None]:
    """Translates what is wrong with an archive that was received."""
    try:
        yield
    except (ArchiveCut, StreamCut) as cause:
        raise ConnectionCut(
            f"the download of {knit_id} was cut",
            reason=f"{cause}, although the connection was closed in order",
            advice="pull it again; if it happens again, look for a proxy on the way that cuts",
        ) from cause
    except (ArchiveRefused, DamagedStream) as cause:
        raise TransferFailed(
            f"cannot pull {knit_id}",
            reason=str(cause),
            advice="pull it again; if it happens again, the Data itself is damaged",
        ) from cause
