"""How our docstrings are written, for griffe, which reads them for the API pages.

A section `Example:` is to it a text like any other, and comments that begin with `#:` are nothing.
"""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_EXAMPLE: Final = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Makes `Example:` the section of code that `Examples:` is, and `#:` a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Give an attribute the comment that stands above it."""
        if attr.docstring is None and attr.lineno is not None and attr.parent is not None:
            lines = attr.lines_collection[attr.filepath][: attr.lineno - 1]
            if text := _comment(lines):
                attr.docstring = griffe.Docstring(text, parent=attr, lineno=attr.lineno)


def _comment(lines: list[str]) -> str:
    """Return the `#:` comment that the lines end with, or nothing."""
    first = len(lines)
    while first and lines[first - 1].lstrip().startswith("#:"):
        first -= 1
    return " ".join(line.lstrip().removeprefix("#:").strip() for line in lines[first:])
