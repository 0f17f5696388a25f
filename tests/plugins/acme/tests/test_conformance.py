"""Everything that rigging expects of a generator; pytest shows each rule as a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rigging import Generator, get_generator
from rigging.error import ContextLengthError, ModelNotFoundError
from rigging.testing import Fault, GeneratorContract

# The prompts of the contract end in these words, so that each is continued in its own way.
TEXT = """
red. Roses are lovely in the evening when the sun goes down behind the hill, and green. Leaves
tremble in the wind that comes from the sea every night, they say. Nobody has ever seen where it
sleeps by day, nor heard it snore, and more. Questions than answers are told here in winter.
"""


class TestAcmeGenerator(GeneratorContract):
    unsupported_params = frozenset(
        {
            "api_base",
            "audio",
            "frequency_penalty",
            "modalities",
            "parallel_tool_calls",
            "presence_penalty",
            "tool_choice",
            "tools",
            "top_k",
            "top_p",
        }
    )

    @pytest.fixture
    def generator(self, tmp_path: Path) -> Generator:
        path = tmp_path / "text.txt"
        path.write_text(TEXT, encoding="utf-8")
        return get_generator(f"acme!{path}")

    @pytest.fixture
    def faults(self) -> Sequence[Fault]:
        return [
            Fault(error=ContextLengthError, name="too long", prompt="word " * 5000),
            Fault(
                error=ModelNotFoundError,
                name="no such file",
                generator=get_generator("acme!/there/is/no/such/file.txt"),
            ),
        ]
