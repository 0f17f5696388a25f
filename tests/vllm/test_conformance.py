from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.testing import GeneratorContract

if TYPE_CHECKING:
    from rigging.generator import Generator
    from rigging_vllm import VLLMGenerator


class TestVLLMGenerator(GeneratorContract):
    @pytest.fixture
    def generator(self, shared: VLLMGenerator) -> Generator:
        return shared
