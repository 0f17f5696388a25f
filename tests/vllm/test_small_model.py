"""A real small instruct model, from the first question to a batch with a checkpoint."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator
from tests.support.small_model import save_small_model
from tests.vllm.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

QUESTIONS = {
    "What is the capital of France? Answer in one word.": "Paris",
    "What is the capital of Italy? Answer in one word.": "Rome",
    "What is the capital of Japan? Answer in one word.": "Tokyo",
}
GREEDY = rg.GenerateParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def small() -> Iterator[VLLMGenerator]:
    # Not pytest's own folder: that would keep the model of three runs.
    with tempfile.TemporaryDirectory() as folder:
        save_small_model(Path(folder))
        generator = VLLMGenerator(model=folder, **{**SMALL, "max_model_len": 512})
        yield generator
        generator.unload()


def test_questions_are_answered(small: VLLMGenerator) -> None:
    chats = asyncio.run(small.chat().with_(GREEDY).run_batch(list(QUESTIONS)))

    for chat, answer in zip(chats, QUESTIONS.values(), strict=True):
        assert answer in chat.last.text
        assert chat.stop_reason is rg.StopReason.stop


def test_a_stream_gives_whole_characters_that_add_up(small: VLLMGenerator) -> None:
    # Characters of several tokens each.
    text = "Repeat this: 日本語 🦜 naïve façade. 日本語 🦜"
    params = GREEDY.merge_with(rg.GenerateParams(extra={"ignore_eos": True}))

    async def stream() -> list[Any]:
        message = rg.Message("user", text)
        return [piece async for piece in small.stream_messages([message], params)]

    *pieces, last = asyncio.run(stream())
    chat = asyncio.run(small.chat(text).with_(params).run())

    assert len(pieces) > 3
    assert "".join(pieces) == last.message.text == chat.last.text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_batch_goes_on_from_its_checkpoint(small: VLLMGenerator, tmp_path: Path) -> None:
    questions = [f"{question} ({number})" for number, question in enumerate([*QUESTIONS] * 4)]
    file = tmp_path / "run.db"
    pipeline = small.chat().with_(GREEDY)

    async def begin() -> list[str]:
        done: list[str] = []
        async for chat in pipeline.iter_batch(questions, checkpoint=file):
            done.append(chat.last.text)
            if len(done) == 3:
                break
        return done

    done = asyncio.run(begin())
    asked = []
    chats = asyncio.run(pipeline.watch(asked.append).run_batch(questions, checkpoint=file))

    assert [chat.messages[0].text for chat in chats] == questions
    assert len(done) == 3
    assert set(done) <= {chat.last.text for chat in chats}
    for chat, answer in zip(chats, [*QUESTIONS.values()] * 4, strict=True):
        assert answer in chat.last.text
