"""What users were promised about generators, example by example, and known faults of the kind."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence

import backoff
import backoff.types
import pytest

import rigging as rg
from rigging.error import RateLimitError
from rigging.testing import EchoGenerator, ScriptedGenerator


@pytest.mark.usefixtures("providers")
def test_identifiers_go_back_to_strings() -> None:
    generator = rg.get_generator("gpt-3.5-turbo,temperature=0.5")

    assert generator.to_identifier() == "litellm!gpt-3.5-turbo,temperature=0.5"
    assert rg.get_identifier(generator) == "litellm!gpt-3.5-turbo,temperature=0.5"


@pytest.mark.usefixtures("providers")
def test_local_models_are_named_with_their_fields() -> None:
    tiny_llama = rg.get_generator(
        "vllm!TinyLlama/TinyLlama-1.1B-Chat-v1.0,gpu_memory_utilization=0.3,trust_remote_code=True"
    )
    llama_3 = rg.get_generator("transformers!meta-llama/Meta-Llama-3-8B-Instruct")

    assert tiny_llama.gpu_memory_utilization == 0.3  # type: ignore[attr-defined]
    assert llama_3.model == "meta-llama/Meta-Llama-3-8B-Instruct"


def test_with_keywords_or_params_in_a_loop() -> None:
    with rg.register_generator("litellm", EchoGenerator):
        pipeline = rg.get_generator("gpt-3.5-turbo,max_tokens=50").chat(
            [{"role": "user", "content": "Say a haiku about boats"}]
        )

    async def main() -> list[rg.Chat]:
        chats = []
        for temp in [0.1, 0.5, 1.0]:
            chats.append(await pipeline.with_(temperature=temp).run())
            chats.append(await pipeline.with_(rg.GenerateParams(temperature=temp)).run())
        return chats

    temperatures = [chat.params.temperature for chat in asyncio.run(main())]
    assert temperatures == [0.1, 0.1, 0.5, 0.5, 1.0, 1.0]


def test_wrap_with_backoff_over_run_many() -> None:
    waits: list[float] = []
    failures = iter([RateLimitError("slow down")] * 7)

    class Limited(rg.Generator):
        batch_size = 1

        async def generate_messages(
            self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
        ) -> Sequence[rg.GeneratedMessage | BaseException]:
            return [next(failures, rg.GeneratedMessage.from_text("Steel hums at dawn"))]

    def on_backoff(details: backoff.types.Details) -> None:
        waits.append(details["wait"])  # type: ignore[typeddict-item]

    pipeline = (
        Limited(model="claude-3-haiku-20240307")
        .chat("Give me a 4 word phrase about machines.")
        .wrap(
            backoff.on_exception(
                backoff.expo, RateLimitError, factor=0.01, jitter=None, on_backoff=on_backoff
            )
        )
    )
    chats = asyncio.run(pipeline.run_many(50))

    assert [chat.last.text for chat in chats] == ["Steel hums at dawn"] * 50
    assert len(waits) == 7


# -- Faults that such libraries are known for --------------------------------------------


def test_the_prefix_of_a_pipeline_is_not_sent_twice_by_run_batch() -> None:
    scripted = ScriptedGenerator("ab")

    scripted.chat("prefix").run_batch_sync(["a", "b"])

    assert [[m.text for m in sent] for sent in scripted.calls[0].inputs] == [
        ["prefix", "a"],
        ["prefix", "b"],
    ]


def test_params_are_not_ignored_by_run_many() -> None:
    scripted = ScriptedGenerator("ab")

    scripted.chat("Hi").run_many_sync(2, params=[rg.GenerateParams(seed=n) for n in (1, 2)])

    assert [params.seed for params in scripted.calls[0].params] == [1, 2]


def test_extra_of_a_generator_survives_asking_for_its_identifier() -> None:
    generator = EchoGenerator(model="x", params=rg.GenerateParams(extra={"user": "bob"}))

    with rg.register_generator("echo", EchoGenerator):
        assert generator.to_identifier(rg.GenerateParams(extra={"a": 1})) == (
            "echo!x,extra.a=1,extra.user=bob"
        )

    assert generator.params.extra == {"user": "bob"}


def test_two_runs_of_one_pipeline_share_nothing() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi").meta(a=[])

    one, two = pipeline.run_sync(), pipeline.run_sync()
    one.metadata["b"] = 1
    one.messages.append(rg.Message("user", "more"))

    assert two.metadata == {"a": []}
    assert len(two.messages) == 1
    assert len(pipeline.messages) == 1


def test_a_generator_works_in_one_event_loop_after_another() -> None:
    pipeline = EchoGenerator(model="x").chat("Hi")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert len(asyncio.run(pipeline.run_many(3))) == 3


def test_an_image_added_after_a_first_send_is_sent() -> None:
    scripted = ScriptedGenerator("ab")
    image = rg.ImagePart.from_url("https://example.org/cat.png")
    chat = scripted.chat("Hi").run_sync()

    chat.continue_(rg.Message("user", ["and this?", image])).run_sync()

    (sent,) = scripted.calls[1].inputs
    assert sent[-1].to_openai()["content"][1] == image.model_dump()  # type: ignore[union-attr, index]
