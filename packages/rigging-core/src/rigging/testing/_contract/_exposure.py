"""All that can be seen of a generator, of an exception, and of whatever they hold."""

from __future__ import annotations

import pickle
import traceback
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from rigging.generator import Generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["shown_of", "shown_of_error", "shown_of_generator"]

_DEPTH: Final = 3  # the request of an error, its headers, and the list that they keep
_MOST: Final = 20_000  # parts to look at
# They hold half a program, or the key by right.
_CLOSED: Final = (FunctionType, Generator, MethodType, ModuleType, type)


def shown_of(value: object) -> str:
    """Return what a debugger, or a log that writes attributes, shows of a value."""
    return "\n".join(_texts(value, _DEPTH, {}))


def shown_of_generator(generator: Generator) -> Mapping[str, str]:
    """Return what a generator shows of itself, by how."""
    return {
        "repr": repr(generator),
        "str": str(generator),
        "dump": repr(generator.model_dump()),
        "JSON": generator.model_dump_json(),
        "identifier": generator.to_identifier(),
        "pipeline's repr": repr(generator.chat("Hi")),
        "pickle": repr(pickle.dumps(generator)),
    }


def shown_of_error(error: BaseException) -> Mapping[str, str]:
    """Return what a log, a traceback, a debugger or a pickle shows of an error, by how."""
    links = []
    link: BaseException | None = error
    while link is not None:
        links.append(f"{link} {shown_of(link)}")
        link = link.__cause__ or link.__context__
    try:
        pickled = repr(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (another rule is about that)
        pickled = ""
    return {
        "text and attributes": "\n".join(links),
        "traceback": "".join(traceback.format_exception(error)),
        "pickle": pickled,
    }


def _texts(value: Any, depth: int, seen: dict[int, Any]) -> Iterator[str]:
    """Yield the repr of a value and of what it holds: so many attributes deep, lists wholly."""
    if id(value) in seen or len(seen) == _MOST:
        return
    seen[id(value)] = value  # which keeps it, so that no other gets its id
    try:
        yield repr(value)
    except Exception as error:  # noqa: BLE001 (what cannot be shown, shows nothing)
        yield f"{type(value).__name__}: {type(error).__name__}"
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (frozenset, list, set, tuple)):
        parts = [*value]
    for part in parts:
        yield from _texts(part, depth, seen)
    if depth and not isinstance(value, _CLOSED):
        for part in [*getattr(value, "__dict__", {}).values()]:
            yield from _texts(part, depth - 1, seen)
