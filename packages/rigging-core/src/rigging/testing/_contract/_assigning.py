"""Fields of a generator, set for a while, and generators that are made anew."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rigging.generator import Generator

__all__ = ["assigned", "made_anew"]


@contextlib.contextmanager
def assigned(generator: Generator, name: str, value: object) -> Iterator[None]:
    """Set a field, and set it back."""
    before = getattr(generator, name)
    setattr(generator, name, value)
    try:
        yield
    finally:
        setattr(generator, name, before)


@contextlib.contextmanager
def made_anew(generator: Generator, **others: Any) -> Iterator[Generator]:
    """Build another generator of the same fields, but for some; it is unloaded at the end."""
    another = type(generator)(**{**dict(generator), **others})
    try:
        yield another
    finally:
        another.unload()
