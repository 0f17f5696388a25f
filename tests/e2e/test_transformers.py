"""transformers' own server: one request after another, and no graceful end when it is killed."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging.error import BadRequestError, ProviderConnectionError
from tests.e2e.conftest import MODEL
from tests.e2e.served import QUESTION, ServedDirectly, ServedModel
from tests.support.server_process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def process(models: Path) -> Iterator[ServerProcess]:
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", MODEL]
    with ServerProcess([*command, "--device", "cpu", "--dtype", "float32"], models) as server:
        yield server


@pytest.fixture
def server(process: ServerProcess) -> ServerProcess:
    """The server, started again if a test has killed it."""
    if not process.running:
        process.start()
    return process


class TestTransformers(ServedModel):
    model = f"openai/{MODEL}"
    returns_stop_text = True

    def test_a_model_that_is_not_served_is_refused(self, make: Callable[..., rg.Generator]) -> None:
        with pytest.raises(BadRequestError, match=f"pinned to '{MODEL}'") as caught:
            asyncio.run(make("openai/nobody").chat(QUESTION).run())

        assert caught.value.status == 400

    def test_a_parameter_that_it_does_not_know_is_refused(self, generator: rg.Generator) -> None:
        with pytest.raises(BadRequestError, match=r"Unexpected fields .*top_k") as caught:
            asyncio.run(generator.chat(QUESTION).with_(top_k=5).run())

        assert caught.value.status == 422

    def test_a_batch_goes_on_where_the_server_was_killed(
        self, make: Callable[..., rg.Generator], server: ServerProcess, tmp_path: Path
    ) -> None:
        prompts = [f"Say the number {number}." for number in range(8)]
        pipeline = make(options="max_retries=0,max_tokens=4").chat()
        finished: list[rg.Chat] = []

        def kill(chat: rg.Chat) -> None:
            finished.append(chat)
            server.kill()

        with pytest.raises(ProviderConnectionError, match=r"item \d"):
            pipeline.watch(kill).run_batch_sync(prompts, checkpoint=tmp_path / "run.db")
        server.start()
        chats = pipeline.run_batch_sync(prompts, checkpoint=tmp_path / "run.db")

        assert [chat.messages[0].text for chat in chats] == prompts
        # What was answered before was not asked again.
        assert 0 < len(finished) < 8
        assert {chat.uuid for chat in finished} <= {chat.uuid for chat in chats}

    def test_a_batch_waits_for_a_server_that_is_started_again(
        self, make: Callable[..., rg.Generator], server: ServerProcess
    ) -> None:
        prompts = [f"Say the number {number}." for number in range(8)]
        # Waits for two minutes at least; the server needs some twenty seconds.
        pipeline = make(options="max_retries=14,max_tokens=4").chat()
        restart = threading.Thread(target=server.start)

        def kill(_: rg.Chat) -> None:
            if restart.ident is None:
                server.kill()
                restart.start()

        try:
            chats = pipeline.watch(kill).run_batch_sync(prompts)
        finally:
            restart.join()

        assert [chat.messages[0].text for chat in chats] == prompts

    def test_a_server_that_dies_in_an_answer_is_a_lost_connection(
        self, make: Callable[..., rg.Generator], server: ServerProcess
    ) -> None:
        story = make(options="max_tokens=256").chat("Tell me a long story.")

        async def kill_after_the_first_piece() -> None:
            async for _ in story.stream():
                server.kill()

        with pytest.raises(ProviderConnectionError, match="litellm!openai") as caught:
            asyncio.run(kill_after_the_first_piece())

        assert caught.value.status is None


class TestDirectly(ServedDirectly):
    model = MODEL
    returns_stop_text = True
