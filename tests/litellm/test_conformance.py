from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.testing import GeneratorContract
from tests.support.faults import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rigging.generator import Generator
    from rigging.testing import Fault, OpenAIServer, SlowRequest
    from rigging_litellm import LiteLLMGenerator


class TestLiteLLMGenerator(GeneratorContract):
    supports_tools = True
    # What OpenAI's protocol has no place for in text completions.
    unsupported_in_texts = frozenset(
        {"audio", "modalities", "parallel_tool_calls", "tool_choice", "tools"}
    )

    @pytest.fixture
    def generator(
        self,
        make: Callable[..., LiteLLMGenerator],
        server: OpenAIServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Generator:
        # By environment, because a test of the contract assigns other params, and another one
        # asks from a process that the key does not reach.
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        # One place, so that it is seen to be free again.
        return make(api_base=None, max_connections=1)

    @pytest.fixture
    def faults(self, server: OpenAIServer) -> Sequence[Fault]:
        return server.faults()

    @pytest.fixture
    def slow(self, server: OpenAIServer) -> SlowRequest:
        return server.slow_request()
