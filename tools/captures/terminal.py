"""Draws what the demo prints on a terminal as an SVG: `python tools/captures/terminal.py`.

The demo (what `make demo` runs once everything is set up) runs in a pseudo-terminal, in an empty
folder with a home of its own, on a stack that is ended afterwards. Rich turns the very bytes that
came out into the picture; nothing is edited.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT: Final = Path(__file__).parents[2]
DEMO: Final = ROOT / "examples" / "iris" / "demo.py"
PICTURE: Final = ROOT / "docs" / "images" / "demo.svg"
COLUMNS: Final = 100
ROWS: Final = 44

FRAME: Final = """\
<svg class="{unique_id}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own frame without its web font: a picture in a README must not fetch anything."""


def run_in_terminal(command: list[str], folder: Path, size: tuple[int, int]) -> bytes:
    """Runs a command in a pseudo-terminal of (columns, rows), in a folder that is its home as well.

    Gives all it printed; raises CalledProcessError when it fails.
    """
    columns, rows = size
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    hidden = ("COLUMNS", "LINES", "NO_COLOR", "XDG_RUNTIME_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"TERM": "xterm-256color", "HOME": str(folder)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        printed = bytearray()
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                break
            if not piece:
                break
            sys.stderr.buffer.write(piece)
            sys.stderr.flush()
            printed += piece
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return bytes(printed)


def draw(printed: bytes, columns: int, title: str) -> str:
    """Turns what a terminal got into an SVG of that width."""
    text = printed.decode("utf-8").replace("\r\n", "\n").rstrip("\n")
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, highlight=False)
        for line in Text.from_ansi(text).split():
            # A terminal breaks long lines at its edge, Rich would between words.
            for piece in line.divide(range(columns, len(line), columns)):
                console.print(piece)
        return console.export_svg(
            title=title, theme=MONOKAI, code_format=FRAME, unique_id="terminal"
        )


def main() -> None:
    """Runs the demo once and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE)
    output: Path = parser.parse_args().output
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            printed = run_in_terminal([sys.executable, str(DEMO)], folder, (COLUMNS, ROWS))
        finally:
            down = [sys.executable, "-m", "knit_cli", "dev", "down"]
            subprocess.run(down, cwd=folder, env={**os.environ, "HOME": name}, check=False)
    for place in (name, str(ROOT)):
        if place.encode() in printed:
            sys.exit(f"the demo printed {place}, a path of this machine; no picture is written")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(draw(printed, COLUMNS, "make demo"), encoding="utf-8")
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
