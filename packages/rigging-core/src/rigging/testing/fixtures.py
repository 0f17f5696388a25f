"""Fixtures for pytest: ``pytest_plugins = ["rigging.testing.fixtures"]`` in a ``conftest.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.testing._server import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["openai_server"]


@pytest.fixture
def openai_server() -> Iterator[OpenAIServer]:
    """An endpoint on loopback that speaks OpenAI's protocol; see `rigging.testing.OpenAIServer`."""
    with OpenAIServer() as server:
        yield server
