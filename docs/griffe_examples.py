"""Lets `Example:` in a docstring be what `Examples:` is to griffe: code, not text."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_HEADING: Final = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Renames the section in every docstring, as soon as the object is known."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = _HEADING.sub(r"\1Examples:", obj.docstring.value)
