from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_litellm import LiteLLMGenerator
from tests.support.faults import KEY
from tests.support.litellm_warnings import ignore_litellm_warnings
from tests.support.openai_server import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_configure(config: pytest.Config) -> None:
    ignore_litellm_warnings(config)


@pytest.fixture(scope="session")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running_server: OpenAIServer) -> OpenAIServer:
    """A server on loopback that nobody has asked anything yet."""
    running_server.reset()
    return running_server


@pytest.fixture
def make(server: OpenAIServer) -> Callable[..., LiteLLMGenerator]:
    """Make a generator for the server; takes params and fields of the generator alike."""

    def make(model: str = "openai/tiny", **options: Any) -> LiteLLMGenerator:
        names = LiteLLMGenerator.model_fields.keys() & options.keys()
        fields = {name: options.pop(name) for name in names}
        params = rg.GenerateParams(**{"api_base": server.url, **options})
        # Without retries a failure is one request.
        defaults = {"api_key": KEY, "max_retries": 0, "params": params}
        return LiteLLMGenerator(model=model, **{**defaults, **fields})

    return make
