from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.error import BadRequestError, ContextLengthError, ModelNotFoundError
from rigging.params import GenerateParams
from rigging.testing import Fault, GeneratorContract, SlowRequest
from rigging_vllm import VLLMGenerator
from rigging_vllm._sampling import UNSUPPORTED
from tests.vllm.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture(scope="module")
def with_a_key(shared: VLLMGenerator, tiny_model: Path) -> Iterator[VLLMGenerator]:
    """A generator with a key of its own: giving it another one would start another engine."""
    shared.unload()
    generator = VLLMGenerator(model=str(tiny_model), api_key="hf-planted-51c7e0d2", **SMALL)
    yield generator
    generator.unload()


class TestVLLMGenerator(GeneratorContract):
    # The tiny model's chat template knows nothing of tools.
    unsupported_params = frozenset({*UNSUPPORTED, "tools"})
    # An engine takes minutes to start on a busy machine: not one more, and time for the others.
    answers_when_spawned = False
    patience_s = 500.0

    @pytest.fixture
    def generator(self, with_a_key: VLLMGenerator) -> VLLMGenerator:
        return with_a_key

    @pytest.fixture
    def faults(self, tiny_model: Path) -> Sequence[Fault]:
        nothing = VLLMGenerator(model=str(tiny_model / "nothing"))
        return [
            Fault(error=ContextLengthError, prompt="word " * 1000),
            Fault(error=BadRequestError, params=GenerateParams(extra={"no_such_option": 1})),
            Fault(error=ModelNotFoundError, generator=nothing),
        ]

    @pytest.fixture
    def slow(self) -> SlowRequest:
        # All that fits beside the prompt into the tiny model's context, whatever is drawn.
        params = GenerateParams(max_tokens=90, extra={"ignore_eos": True})
        return SlowRequest(params=params, after_s=0.02, places=8)
