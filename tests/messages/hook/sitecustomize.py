"""Makes each Python process of a test run tell which texts of the product it used.

On the `PYTHONPATH` of `python -m tests.messages`; `KNIT_MESSAGES` is the folder for what is told.
"""

from __future__ import annotations

import marshal
import os
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

FOLDER = Path(os.environ["KNIT_MESSAGES"])
PACKAGES = ("knit_api", "knit_cli", "knit_workflows")

RECORD = "__knit_said__"
"""The name in `places`."""


class Recorder:
    """Writes each place of one module down once per process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: set[str] = set()

    def __call__(self, place: str) -> None:
        if place not in self._said:
            self._said.add(place)
            # A file of its own, and small: some tests limit what a process may write.
            with suppress(OSError), (FOLDER / f"said.{os.getpid()}").open("a") as file:
                file.write(f"{self._name} {place}\n")


class RecordingLoader(SourceFileLoader):
    """Loads the code of a module that tells."""

    def get_code(self, fullname: str) -> CodeType:
        """Gives what `python -m tests.messages` has made of it."""
        return marshal.loads((FOLDER / f"{self.name}.code").read_bytes())

    def exec_module(self, module) -> None:
        module.__dict__[RECORD] = Recorder(self.name)
        super().exec_module(module)


class RecordingFinder:
    """Finds the product's modules before anybody else does."""

    @staticmethod
    def find_spec(name: str, path=None, target=None) -> ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = RecordingLoader(spec.loader.name, spec.loader.path)
        return spec


# What runs as `python -m` gets no module of ours, and looks a recorder up among the built-ins.
import builtins  # noqa: E402

setattr(
    builtins, RECORD, lambda place: Recorder(sys._getframe(1).f_globals["__spec__"].name)(place)
)
sys.meta_path.insert(0, RecordingFinder)
