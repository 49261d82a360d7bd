"""Copies the log of a Run, over connections that break if need be."""

from collections.abc import Callable, Iterable, Iterator

from knit_cli.client import ApiClient
from knit_cli.errors import ConnectionCut, TransferFailed


def copy_log(api: ApiClient, run_id: str, *, follow: bool, write: Callable[[bytes], None]) -> None:
    """Hands on the log piece by piece: what there is, or with `follow` until the container ends.

    A log only grows, so after a broken connection it is read anew and what was handed on left out.
    Given up when three tries bring nothing new.

    Raises:
        TransferFailed: after a cut there is less than before: the Run was retried meanwhile.
        CliError: the API did not give it.
    """
    copied = 0

    def attempt() -> None:
        nonlocal copied
        with api.open_log(run_id, follow=follow) as stream:
            for piece in _after(copied, stream.chunks, run_id):
                write(piece)
                copied += len(piece)

    while True:
        before = copied
        try:
            return api.when_cut_again(attempt, repeatable=True)
        except ConnectionCut:
            if copied == before:
                raise


def _after(skipped: int, chunks: Iterable[bytes], run_id: str) -> Iterator[bytes]:
    left = skipped
    for chunk in chunks:
        if rest := chunk[left:]:
            yield rest
        left = max(0, left - len(chunk))
    if left:
        raise TransferFailed(
            f"the log of Run {run_id} was cut, and it is another one now",
            reason="the Run was retried",
            advice=f"show it from its start: knit run show --log {run_id}",
        )
