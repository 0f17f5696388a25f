"""Code as users write it: it is only type-checked, strictly, by mypy and pyright."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

import pytest

import rigging as rg
from rigging.error import GenerationError, RateLimitError
from rigging.generator import GenerateParams, Generator, get_generator
from rigging.registry import Registration
from rigging.testing import (
    EchoGenerator,
    Fault,
    GeneratorContract,
    OpenAIServer,
    ScriptedGenerator,
    ServerReply,
    SlowRequest,
)


class Custom(rg.Generator):
    """The page's example "Writing a Generator"."""

    batch_size = 8

    custom_field: bool

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        merged = [self.params.merge_with(own).to_dict() for own in params]
        usage = rg.Usage(input_tokens=1, output_tokens=2)
        return [
            rg.GeneratedMessage.from_text(f"{self.model} {own}", "stop", usage=usage)
            for own in merged
        ]


class OnlySuccesses(rg.Generator):
    """A narrower result type is fine, as on the page."""

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> list[rg.GeneratedText]:
        return [rg.GeneratedText.from_text(text) for text in texts]


class TestCustom(GeneratorContract):
    identifier = "custom!foo,custom_field=true"
    supports_texts = False
    unsupported_params = frozenset({"top_k"})

    @pytest.fixture
    def faults(self) -> list[Fault]:
        return [Fault(error=RateLimitError, arrange=lambda: None, retry_after=7)]

    @pytest.fixture
    def slow(self) -> SlowRequest:
        return SlowRequest(after_s=0.1)


def served() -> list[Fault]:
    with OpenAIServer() as server:
        server.prepare(ServerReply.refusal(429, retry_after=7), ServerReply(delay_s=1, cut=True))
        return server.faults()


async def main() -> None:
    generator = rg.get_generator("gpt-4o,temperature=0.5", params=rg.GenerateParams(seed=1))
    assert_type(generator, Generator)
    assert_type(generator.load().unload(), Generator)
    assert_type(rg.get_identifier(generator, short=True), str)

    pipeline = generator.chat([rg.Message("system", "Be brief."), {"role": "user", "content": "x"}])
    chat = await pipeline.with_(temperature=1.0).with_(GenerateParams(top_p=0.5)).run()
    assert_type(chat, rg.Chat)
    assert_type(chat.last, rg.Message)
    assert_type(chat.last.text, str)
    assert_type(chat.usage, rg.Usage | None)
    chats = await pipeline.run_many(3, params=[GenerateParams(seed=seed) for seed in range(3)])
    assert_type(chats, rg.ChatList)
    assert_type(chats.usage.total_tokens, int)
    assert_type([chat.stop_reason for chat in chats], list[rg.StopReason])

    completion = await generator.complete("Once").run()
    assert_type(completion, rg.Completion)
    assert_type(await generator.complete("Once").run_many(2), rg.CompletionList)
    assert_type(generator.chat("Hi").run_sync(), rg.Chat)
    assert_type(await generator.chat().run_batch(["a", "b"], on_failed="skip"), rg.ChatList)
    assert_type(await pipeline.run_over("litellm!gpt-4o", generator), rg.ChatList)
    async for one in pipeline.iter_batch(["a", ["b", rg.Message("assistant", "c")]], window=4):
        assert_type(one, rg.Chat)
    async for piece in pipeline.stream():
        assert_type(piece, str | rg.Chat)
    for done in generator.complete("").iter_batch_sync(iter(["a"])):
        assert_type(done, rg.Completion)

    def shorter(chat: rg.Chat) -> rg.ChatPipeline | None:
        return chat.continue_("Shorter!") if len(chat.last.text) > 100 else None

    async def log(chat: rg.Chat) -> None:
        print(chat.metadata)

    built = pipeline.then(shorter).watch(log).map(lambda chats: chats[:1]).meta(a=1).name("x")
    assert_type(built, rg.ChatPipeline)
    assert_type(chat.continue_("more"), rg.ChatPipeline)
    generator.watch(chats=log)

    custom = Custom(model="foo", custom_field=True, api_key="…")
    registration = rg.register_generator("custom", Custom)
    assert_type(registration, Registration)
    registration.undo()
    with rg.register_generator("lazy", lambda: Custom):
        await get_generator("lazy!x,custom_field=true").chat("Hi").run()
    assert_type(custom.load(), Custom)

    try:
        await custom.chat(["Hi", rg.Message("assistant", [rg.TextPart(text="Hello")])]).run()
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except (GenerationError, rg.RiggingError):
        raise

    image = rg.ImagePart.from_bytes(b"\x89PNG\r\n\x1a\n", detail="low")
    await EchoGenerator(model="x").chat(rg.Message("user", ["look", image])).run()
    scripted = ScriptedGenerator(["a", RateLimitError("slow down", status=429)], model="x")
    assert_type(scripted.calls[0].params[0].temperature, float | None)
