"""Mistral's own tokenizers, which lay conversations out by code instead of a template."""

from __future__ import annotations

import asyncio
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mistral_common
import pytest
import torch
import transformers

from rigging import GeneratedMessage, GenerateParams, Message
from rigging.error import BadRequestError
from rigging_transformers import TransformersGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(mistral_common.__file__).parent / "data"

CONVERSATION = [
    Message("system", "Answer briefly."),
    Message("user", "Name a colour."),
    Message("assistant", "Red."),
    Message("user", "Another one, please."),
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paints something.",
            "parameters": {"type": "object", "properties": {"colour": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a small model with a real tokenizer, as Mistral publishes them."""
    directory = tmp_path_factory.mktemp("mistral")
    shutil.copy(DATA / "tekken_240911.json", directory / "tekken.json")
    config = transformers.MistralConfig(
        vocab_size=131072,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        sliding_window=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.MistralForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(mistral: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(mistral)


@pytest.fixture
def generator(mistral: Path) -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator(model=str(mistral))
    yield generator
    generator.unload()


def ask(generator: TransformersGenerator, messages: list[Message], **params: Any) -> Any:
    own = GenerateParams(**{"max_tokens": 12, "temperature": 0, **params})
    (result,) = asyncio.run(generator.generate_messages([messages], [own]))
    return result


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_a_conversation_is_laid_out_as_the_tokenizer_does_it(
    generator: TransformersGenerator, mistral: Path, tokenizer: Any, tools: Any
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(mistral)
    messages = [message.to_openai() for message in CONVERSATION]
    ids = tokenizer.apply_chat_template(messages, tools=tools)["input_ids"]
    output = model.generate(
        torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )

    with warnings.catch_warnings():  # of tools that it cannot take
        warnings.simplefilter("error")
        result = ask(generator, CONVERSATION, tools=tools)

    assert result.usage.input_tokens == len(ids)
    assert result.message.text == tokenizer.decode(output[0, len(ids) :], True)


def test_streams_and_stop_texts_are_what_they_are_elsewhere(
    generator: TransformersGenerator, tokenizer: Any
) -> None:
    whole = ask(generator, CONVERSATION, max_tokens=40).message.text
    stop = whole[20:22]

    async def stream() -> list[Any]:
        params = GenerateParams(max_tokens=40, temperature=0, stop=[stop, tokenizer.eos_token])
        return [piece async for piece in generator.stream_messages(CONVERSATION, params)]

    *pieces, result = asyncio.run(stream())

    assert result.message.text == "".join(pieces) == whole[: whole.index(stop)]
    assert result.stop_reason == "stop"


def test_text_is_continued(generator: TransformersGenerator, tokenizer: Any) -> None:
    params = GenerateParams(max_tokens=12, temperature=0)

    first, second = asyncio.run(
        generator.generate_texts(["Once upon a time", "Red, green and"], [params] * 2)
    )

    assert first.usage.input_tokens == len(tokenizer("Once upon a time")["input_ids"])
    assert str(first) != str(second)


def test_a_template_that_it_would_ignore_is_refused(mistral: Path) -> None:
    generator = TransformersGenerator(model=str(mistral), chat_template="{{ messages }}")

    with pytest.raises(BadRequestError, match="would ignore chat_template: leave it out"):
        raise ask(generator, CONVERSATION)
    generator.unload()


def test_a_conversation_that_it_refuses_fails_its_own_request(
    generator: TransformersGenerator,
) -> None:
    answered = [*CONVERSATION, Message("assistant", "Blue.")]
    params = [GenerateParams(max_tokens=4, temperature=0)] * 2

    fine, refused = asyncio.run(generator.generate_messages([CONVERSATION, answered], params))

    assert isinstance(fine, GeneratedMessage)
    assert isinstance(refused, BadRequestError)
    assert "last message" in str(refused)
