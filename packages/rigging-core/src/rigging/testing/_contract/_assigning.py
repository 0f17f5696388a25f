"""Fields of a generator, set for a while."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rigging.generator import Generator

__all__ = ["assigned"]


@contextlib.contextmanager
def assigned(generator: Generator, name: str, value: object) -> Iterator[None]:
    """Set a field, and set it back."""
    before = getattr(generator, name)
    setattr(generator, name, value)
    try:
        yield
    finally:
        setattr(generator, name, before)
