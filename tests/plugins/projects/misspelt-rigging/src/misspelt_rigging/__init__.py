"""A good class; the entry point that should lead to it does not parse."""

from __future__ import annotations

from rigging import Generator


class MisspeltGenerator(Generator):
    pass
