from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_openai import OpenAIGenerator
from tests.support.faults import KEY
from tests.support.openai_server import OpenAIServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"]
    proxies = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]
    for name in [*names, *proxies, *(proxy.upper() for proxy in proxies)]:
        monkeypatch.delenv(name, raising=False)


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
def make(server: OpenAIServer) -> Callable[..., OpenAIGenerator]:
    """Make a generator for the server; takes params and fields of the generator alike."""

    def make(model: str = "tiny", **options: Any) -> OpenAIGenerator:
        names = OpenAIGenerator.model_fields.keys() & options.keys()
        fields = {name: options.pop(name) for name in names}
        params = rg.GenerateParams(**{"api_base": server.url, **options})
        # Without retries a failure is one request.
        defaults = {"api_key": KEY, "max_retries": 0, "params": params}
        return OpenAIGenerator(model=model, **{**defaults, **fields})

    return make
