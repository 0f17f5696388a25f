from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rigging.testing import GeneratorContract
from rigging_transformers import TransformersGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestTransformers(GeneratorContract):
    @pytest.fixture
    def generator(self, tiny_model: Path) -> Iterator[TransformersGenerator]:
        generator = TransformersGenerator(model=str(tiny_model))
        yield generator
        generator.unload()
