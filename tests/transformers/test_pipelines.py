"""Pipelines over a real local model: one batch for all that wait, retries, nested runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import ProviderServerError
from tests.support.retries import LIBRARIES, note_sleeping, retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging_transformers import TransformersGenerator

PARAMS = rg.GenerateParams(max_tokens=4, temperature=0)


def noted_calls(
    monkeypatch: pytest.MonkeyPatch, generator: TransformersGenerator, failures: int
) -> list[int]:
    """Note the size of each call that reaches the generator; let the first ones fail."""
    sizes: list[int] = []
    original = type(generator).generate_messages

    async def generate(
        self: TransformersGenerator,
        messages: Sequence[Sequence[rg.Message]],
        params: Sequence[rg.GenerateParams],
    ) -> Any:
        sizes.append(len(messages))
        number = len(sizes)
        results = list(await original(self, messages, params))
        if number <= failures:
            results[0] = ProviderServerError("the engine stumbled")
        return results

    monkeypatch.setattr(type(generator), "generate_messages", generate)
    return sizes


def test_many_prompts_are_one_batch_and_each_gets_its_own_answer(
    borrowing: TransformersGenerator, widths: list[int]
) -> None:
    inputs = [f"prompt {number}" for number in range(12)]

    batch = borrowing.chat(params=PARAMS).run_batch_sync(inputs)
    alone = [borrowing.chat(one, params=PARAMS).run_sync() for one in inputs[:3]]

    assert widths == [12] * 4 + [1] * 12
    assert [chat.last.text for chat in batch[:3]] == [chat.last.text for chat in alone]


def test_nested_runs_are_one_batch_too(borrowing: TransformersGenerator, widths: list[int]) -> None:
    def once_more(chat: rg.Chat) -> rg.ChatPipeline | None:
        return chat.continue_("more") if len(chat) == 2 else None

    chats = borrowing.chat("Hi", params=PARAMS).then(once_more).run_many_sync(8)

    assert widths == [8] * 8
    assert [len(chat) for chat in chats] == [4] * 8


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrap_repeats_the_request_that_failed_and_no_other(
    monkeypatch: pytest.MonkeyPatch, borrowing: TransformersGenerator, library: str
) -> None:
    sizes = noted_calls(monkeypatch, borrowing, failures=2)
    slept = note_sleeping(monkeypatch)
    pipeline = borrowing.chat("Hi", params=PARAMS).wrap(retry(library, ProviderServerError))

    chats = pipeline.run_many_sync(4)

    assert sizes == [1] * 6
    assert len(slept) == 2
    assert len({chat.last.text for chat in chats}) == 1
