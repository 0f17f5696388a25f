"""Values as JSON holds them."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["as_json"]


def as_json(value: Any, place: str) -> Any:
    """Return a value as it comes back from JSON: names are text, and tuples are lists.

    Args:
        value: Text, numbers, None, paths, dtypes of torch, and mappings and lists of these.
        place: What the error says to hold it.

    Raises:
        ValueError: If JSON cannot hold it.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _unicode(value, place)
        case dict():
            return {_name(name, place): as_json(inner, str(name)) for name, inner in value.items()}
        case list() | tuple():
            return [as_json(inner, place) for inner in value]
        case os.PathLike():
            return os.fspath(value)
        case _:
            pass
    if type(value).__module__ == "torch" and type(value).__name__ in {"dtype", "device"}:
        return str(value).removeprefix("torch.")
    as_dict = " (what its to_dict() returns may do)" if hasattr(value, "to_dict") else ""
    raise ValueError(
        f"{place}: expected text, a number, a list or a mapping, got {type(value).__name__}"
        f"{as_dict}. A model that takes more you load yourself, and wrap by from_obj()"
    )


def _name(name: object, place: str) -> str:
    if not isinstance(name, (str, int)):
        raise ValueError(  # noqa: TRY004 (of which pydantic makes ours)
            f"{place}: expected text as a name, got {type(name).__name__}"
        )
    return _unicode(str(name), place)


def _unicode(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place!r} holds half a character (a lone surrogate)") from None
    return text
