from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.testing import GeneratorContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging.generator import Generator
    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer


class TestOpenAIGenerator(GeneratorContract):
    @pytest.fixture
    def generator(
        self,
        make: Callable[..., OpenAIGenerator],
        server: OpenAIServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Generator:
        # By environment, because a test of the contract assigns other params.
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return make(api_base=None)
