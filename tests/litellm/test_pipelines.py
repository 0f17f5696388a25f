"""Pipelines over real requests: retries of one request, many at once, and checkpoints."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging.error import RateLimitError
from tests.support.openai_server import OpenAIServer, Reply, error_body
from tests.support.retries import LIBRARIES, note_sleeping, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rigging_litellm import LiteLLMGenerator


@pytest.fixture
def running_server() -> Iterator[OpenAIServer]:
    """One for each test: requests are counted to the last one, and litellm keeps connections."""
    with OpenAIServer() as server:
        yield server


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrap_repeats_the_request_that_was_refused_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., LiteLLMGenerator],
    server: OpenAIServer,
    library: str,
) -> None:
    server.prepare(Reply(error_body("slow down"), status=429), Reply(error_body("no"), status=429))
    slept = note_sleeping(monkeypatch)
    pipeline = make().chat("Give me a 4 word phrase about machines.")

    chats = asyncio.run(pipeline.wrap(retry(library, RateLimitError)).run_many(20))

    assert len(chats) == 20
    assert not any(chat.failed for chat in chats)
    assert len(slept) == 2
    assert len(server.requests) == 22


def test_a_batch_is_sent_once_and_kept(
    make: Callable[..., LiteLLMGenerator], server: OpenAIServer, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    inputs = [f"prompt {number}" for number in range(30)]

    before = make().chat("Be brief.").run_batch_sync(inputs, checkpoint=path)
    after = make().chat("Be brief.").run_batch_sync(inputs, checkpoint=path)

    assert after == before
    sent = [request.body["messages"] for request in server.requests]
    assert sorted(messages[-1]["content"] for messages in sent) == sorted(inputs)
    assert {messages[0]["content"] for messages in sent} == {"Be brief."}


def test_a_chat_read_from_json_goes_on_with_a_new_request(
    make: Callable[..., LiteLLMGenerator], server: OpenAIServer
) -> None:
    chat = make(api_base=server.url).chat("Hi").run_sync()
    again = rg.Chat.model_validate_json(chat.model_dump_json())

    pipeline = again.continue_("more")
    pipeline.generator.api_key = "another"  # type: ignore[attr-defined] (keys are not stored)
    went_on = pipeline.run_sync()

    assert [message.text for message in went_on.messages][0::2] == ["Hi", "more"]
    assert len(server.requests) == 2
