"""Finds the texts for people in the product's source, and makes code that says which were used.

A text is a string of three words or more inside a function, docstrings aside: what is raised, shown
or logged, its reasons and hints. An exception raised without a text is one too, since its docstring
is then its message. SQL is none, nor what only a bug in knit brings about (`assert`,
AssertionError, RuntimeError).
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Final

RECORD: Final = "__knit_said__"
_WORDS: Final = re.compile(r"[^\W\d_]{2,}[,;:]? [^\n]*?[^\W\d_]{2,}[,;:]? [^\n]*?[^\W\d_]{2,}")
_SQL: Final = re.compile(r"^(SELECT|select|AS| AND) |%\(|IS (NOT )?NULL$")
_BUGS: Final = ("AssertionError", "RuntimeError")


@dataclass(frozen=True)
class Place:
    """One text, and where it stands."""

    line: int
    column: int
    text: str

    @property
    def key(self) -> str:
        """Gives what is unique in a file."""
        return f"{self.line}:{self.column}"


def recording(tree: ast.Module) -> tuple[ast.Module, list[Place]]:
    """Gives the module with a call of `RECORD` before each text, and the texts."""
    recorder = _Recorder()
    module = ast.fix_missing_locations(recorder.visit(tree))
    return module, recorder.places


def _is_text(text: str) -> bool:
    return bool(_WORDS.search(text)) and not _SQL.search(text)


class _Recorder(ast.NodeTransformer):
    def __init__(self) -> None:
        self.places: list[Place] = []
        self._inside = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An exception without arguments: its docstring is the text."""
        raised = node.exc.func if isinstance(node.exc, ast.Call) else None
        if isinstance(raised, ast.Name) and raised.id in _BUGS:
            return node
        self.generic_visit(node)
        bare = node.exc.func if isinstance(node.exc, ast.Call) and not node.exc.args else node.exc
        if self._inside and isinstance(bare, ast.Name | ast.Attribute):
            name = bare.attr if isinstance(bare, ast.Attribute) else bare.id
            if name[:1].isupper() and node.exc is not None:
                node.exc = self._noted(node.exc, f"({name})")
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        parts = (one.value for one in node.values if isinstance(one, ast.Constant))
        text = "…".join(str(part) for part in parts)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                value.value = self.visit(value.value)
        return self._noted(node, text) if self._inside and _is_text(text) else node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self._inside and isinstance(node.value, str) and _is_text(node.value):
            return self._noted(node, node.value)
        return node

    def visit_Match(self, node: ast.Match) -> ast.AST:
        node.subject = self.visit(node.subject)
        for case in node.cases:  # patterns are no expressions
            case.body = [self.visit(one) for one in case.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        """Only what a call runs: neither decorators, nor annotations and defaults."""
        before, self._inside = self._inside, True
        node.body = [self.visit(one) for one in node.body]
        self._inside = before
        return node

    def _noted(self, node: ast.expr, text: str) -> ast.expr:
        place = Place(node.lineno, node.col_offset, text)
        self.places.append(place)
        call = ast.Call(ast.Name(RECORD, ast.Load()), [ast.Constant(place.key)], [])
        both = ast.Tuple([call, node], ast.Load())
        second = ast.Subscript(both, ast.Constant(1), ast.Load())
        return ast.copy_location(second, node)
