"""Copies of what fields hold, so that a change in place is noticed.

A generator that loads something by its fields loads again once they ask for something else.
They are assigned to, which an object of their own reveals, or changed deep inside.
"""

from __future__ import annotations

from typing import Any

__all__ = ["snapshot"]


def snapshot(value: Any) -> Any:
    """Copy the containers of a value, and no more: dicts, lists, tuples and sets.

    What lies in them is the same, since an object of somebody else's need not equal its copy,
    and would seem to have changed at once.

    Args:
        value: What a field holds, or a dict of all fields.

    Returns:
        Something that equals ``value`` until that is changed.

    Example:
        >>> options = {"rope": {"factor": 2.0}}
        >>> loaded_by = snapshot(options)
        >>> options["rope"]["factor"] = 4.0
        >>> options == loaded_by
        False
    """
    if type(value) is dict:
        return {name: snapshot(inner) for name, inner in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(snapshot, value))
    return value
