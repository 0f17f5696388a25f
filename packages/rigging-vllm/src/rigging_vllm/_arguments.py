"""The names of vLLM's engine arguments, read without importing vLLM.

They are the fields of a dataclass. Its source is parsed and not run, because importing it
takes half a minute, and a mistyped name shall be refused at once.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["engine_arguments", "unknown_name"]

_SOURCE: Final = Path("engine", "arg_utils.py")
_CLASSES: Final = ("EngineArgs", "AsyncEngineArgs")


@functools.cache
def engine_arguments() -> frozenset[str]:
    """Return the names of all engine arguments; none where vLLM cannot be read."""
    package = importlib.util.find_spec("vllm")
    for folder in (package and package.submodule_search_locations) or ():
        try:
            source = (Path(folder) / _SOURCE).read_text(encoding="utf-8")
        except OSError:
            continue
        return frozenset(_fields(ast.parse(source)))
    return frozenset()


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Say that nothing has this name, and which may be meant."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown field {name!r}, and no engine argument of vLLM has that name{hint}"


def _fields(module: ast.Module) -> Iterable[str]:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name in _CLASSES:
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id
