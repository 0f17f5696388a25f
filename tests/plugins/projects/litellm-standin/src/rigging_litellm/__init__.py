"""Stands in for the first-party distribution of this name, which needs litellm."""

from __future__ import annotations

from rigging import Generator


class LiteLLMGenerator(Generator):
    max_connections: int = 10
