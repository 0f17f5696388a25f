"""What a server that speaks OpenAI's protocol must give through the provider, whichever it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest

import rigging as rg
from rigging import StopReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server_process import ServerProcess

QUESTION: Final = "What is the capital of France?"
COUNTING: Final = "One, two, three, four,"


class ServedModel:
    """Inherit it, beside a fixture `server` with the small model running in it.

    Attributes:
        provider: Through which the server is asked.
        model: The small model's name, with litellm's prefix for the server.
        returns_stop_text: Whether the server leaves the stop text in the answer, which
            OpenAI's protocol does not.
    """

    provider: ClassVar[str] = "litellm"
    model: ClassVar[str]
    returns_stop_text: ClassVar[bool] = False

    @pytest.fixture
    def make(self, server: ServerProcess) -> Callable[..., rg.Generator]:
        """Make a generator for the server; greedy, and brief unless told otherwise."""

        def make(model: str = self.model, options: str = "max_tokens=16") -> rg.Generator:
            return rg.get_generator(
                f"{self.provider}!{model},api_base={server.url},api_key=none,temperature=0,{options}"
            )

        return make

    @pytest.fixture
    def generator(self, make: Callable[..., rg.Generator]) -> rg.Generator:
        return make()

    def test_it_knows_the_capital_of_france(self, generator: rg.Generator) -> None:
        chat = asyncio.run(generator.chat(QUESTION).run())

        assert "Paris" in chat.last.text
        assert chat.stop_reason is StopReason.stop
        assert chat.usage is not None
        assert chat.usage.input_tokens > len(QUESTION.split())
        assert 0 < chat.usage.output_tokens < 16
        assert chat.usage.total_tokens == chat.usage.input_tokens + chat.usage.output_tokens

    def test_max_tokens_end_the_answer(self, generator: rg.Generator) -> None:
        whole = asyncio.run(generator.chat(QUESTION).run())
        cut = asyncio.run(generator.chat(QUESTION).with_(max_tokens=3).run())

        assert cut.stop_reason is StopReason.length
        assert cut.usage is not None
        assert cut.usage.output_tokens == 3
        assert whole.last.text.startswith(cut.last.text)

    def test_a_stop_text_ends_the_answer(self, generator: rg.Generator) -> None:
        whole = asyncio.run(generator.chat(QUESTION).run())
        stopped = asyncio.run(generator.chat(QUESTION).with_(stop=" is").run())

        before, found, after = whole.last.text.partition(" is")
        assert after
        assert stopped.last.text == before + (found if self.returns_stop_text else "")
        assert stopped.stop_reason is StopReason.stop

    def test_several_are_answered_at_once(self, generator: rg.Generator) -> None:
        chats = asyncio.run(generator.chat(QUESTION).run_many(3))

        assert len(chats) == 3
        assert all("Paris" in chat.last.text for chat in chats)

    def test_a_streamed_answer_is_the_answer(self, generator: rg.Generator) -> None:
        whole = asyncio.run(generator.chat(QUESTION).run())
        *pieces, streamed = asyncio.run(_collect(generator.chat(QUESTION)))

        assert len(pieces) > 1
        assert "".join(pieces) == whole.last.text
        assert streamed.last.text == whole.last.text
        assert streamed.stop_reason is whole.stop_reason
        assert streamed.usage == whole.usage

    def test_a_stream_that_is_left_leaves_the_server_usable(
        self, make: Callable[..., rg.Generator]
    ) -> None:
        story = make(options="max_tokens=64").chat("Tell me a long story.")

        async def leave_then_ask() -> rg.Chat:
            pieces = story.stream()
            await anext(pieces)
            await pieces.aclose()
            return await make().chat(QUESTION).run()

        assert "Paris" in asyncio.run(leave_then_ask()).last.text

    def test_a_text_is_continued(self, generator: rg.Generator) -> None:
        completion = asyncio.run(generator.complete(COUNTING).with_(max_tokens=6).run())

        assert completion.generated.startswith(" five, six")
        assert completion.stop_reason is StopReason.length
        assert completion.usage is not None
        assert completion.usage.output_tokens == 6
        assert completion.usage.total_tokens == completion.usage.input_tokens + 6

    def test_a_streamed_text_is_the_text(self, generator: rg.Generator) -> None:
        pipeline = generator.complete(COUNTING).with_(max_tokens=6)

        whole = asyncio.run(pipeline.run())
        *pieces, streamed = asyncio.run(_collect(pipeline))

        assert len(pieces) > 1
        assert "".join(pieces) == whole.generated
        assert streamed.generated == whole.generated
        assert streamed.stop_reason is whole.stop_reason
        assert streamed.usage == whole.usage


class ServedDirectly(ServedModel):
    """The same through the provider of OpenAI's protocol, and equal to what litellm gives."""

    provider = "openai"

    @pytest.mark.parametrize("options", ["max_tokens=16", "max_tokens=3", "max_tokens=16,stop= is"])
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_answers_are_those_that_litellm_gives(
        self, server: ServerProcess, options: str, streamed: bool
    ) -> None:
        asked = f"{self.model},api_base={server.url},api_key=none,temperature=0,{options}"

        async def answers(provider: str) -> list[Any]:
            generator = rg.get_generator(f"{provider}{asked}")
            pipelines = [generator.chat(QUESTION), generator.complete(COUNTING)]
            if streamed:
                return [(await _collect(pipeline))[-1] for pipeline in pipelines]
            return [await pipeline.run() for pipeline in pipelines]

        chat, text = asyncio.run(answers("openai!"))
        other_chat, other_text = asyncio.run(answers("litellm!openai/"))

        assert (chat.last.text, text.generated) == (other_chat.last.text, other_text.generated)
        assert [one.stop_reason for one in (chat, text)] == [
            one.stop_reason for one in (other_chat, other_text)
        ]
        assert [_counts(one) for one in (chat, text)] == [
            _counts(one) for one in (other_chat, other_text)
        ]


def _counts(item: Any) -> tuple[int, int, int]:
    return (item.usage.input_tokens, item.usage.output_tokens, item.usage.total_tokens)


async def _collect(pipeline: rg.ChatPipeline | rg.CompletionPipeline) -> list[Any]:
    return [piece async for piece in pipeline.stream()]
