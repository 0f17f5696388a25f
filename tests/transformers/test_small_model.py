"""The same with a real instruct model, loaded once: does what it says make sense?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging import GenerateParams, StopReason
from tests.support.small_model import small_model_path

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small() -> Iterator[rg.Generator]:
    generator = rg.get_generator(f"transformers!{small_model_path()},max_tokens=24,temperature=0")
    yield generator.load()
    generator.unload()


def test_it_knows_the_capital_of_france(small: rg.Generator) -> None:
    chat = asyncio.run(small.chat("What is the capital of France?").run())

    assert "Paris" in chat.last.text
    assert chat.stop_reason is StopReason.stop
    assert chat.usage is not None
    assert 0 < chat.usage.output_tokens < 24


def test_it_answers_several_at_once_as_it_answers_each(small: rg.Generator) -> None:
    questions = ["What is the capital of Italy?", "Say hello.", "Name a colour."]
    conversations = [[rg.Message("user", question)] for question in questions]
    short = GenerateParams(max_tokens=8)

    together = asyncio.run(small.generate_messages(conversations, [short] * 3))
    each = [asyncio.run(small.generate_messages([c], [short]))[0] for c in conversations]

    assert [str(result) for result in together] == [str(result) for result in each]
    assert len({str(result) for result in together}) == 3


def test_it_continues_a_text(small: rg.Generator) -> None:
    prompt = "One, two, three, four,"

    completion = asyncio.run(small.complete(prompt).with_(max_tokens=6).run())

    assert completion.generated.startswith(" five,")
