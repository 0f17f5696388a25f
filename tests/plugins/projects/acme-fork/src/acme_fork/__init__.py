"""Claims the name `acme`, as `acme-rigging` does."""

from __future__ import annotations

from rigging import Generator


class ForkGenerator(Generator):
    speed: int = 1
