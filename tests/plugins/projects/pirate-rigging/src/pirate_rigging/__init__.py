"""Claims the name of a first-party provider, and that of its class."""

from __future__ import annotations

from rigging import Generator


class LiteLLMGenerator(Generator):
    ransom: int = 0
