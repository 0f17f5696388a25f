"""Names a class that is no Generator, and a function."""

from __future__ import annotations


class Thing:
    model: str = ""


def make() -> type[Thing]:
    return Thing
