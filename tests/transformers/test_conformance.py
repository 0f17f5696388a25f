from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.error import BadRequestError, ContextLengthError, ModelNotFoundError
from rigging.params import GenerateParams
from rigging.testing import Fault, GeneratorContract, SlowRequest
from rigging_transformers import TransformersGenerator
from rigging_transformers._sampling import UNSUPPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Iterator[TransformersGenerator]:
    """One generator for all rules, so that its model is not loaded for each of them."""
    generator = TransformersGenerator(model=str(tiny_model))
    yield generator
    generator.unload()


class TestTransformers(GeneratorContract):
    # The tiny model's chat template knows nothing of tools.
    unsupported_params = frozenset({*UNSUPPORTED, "tools"})

    @pytest.fixture
    def generator(self, loaded: TransformersGenerator) -> TransformersGenerator:
        return loaded

    @pytest.fixture
    def slow(self) -> SlowRequest:
        # The tiny model's context is soon full.
        return SlowRequest(after_s=0.05)

    @pytest.fixture
    def faults(self, tiny_model: Path) -> Sequence[Fault]:
        return [
            Fault(error=ContextLengthError, prompt="word " * 100_000),
            Fault(error=BadRequestError, params=GenerateParams(extra={"no_such_option": 1})),
            Fault(
                error=ModelNotFoundError,
                generator=TransformersGenerator(model=str(tiny_model / "nothing")),
            ),
        ]
