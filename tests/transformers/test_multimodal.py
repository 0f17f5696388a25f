"""Models that take images or audio, too: of these we use what continues text."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from rigging import GeneratedMessage, GenerateParams, Message
from rigging.error import BadRequestError
from rigging_transformers import TransformersGenerator
from tests.support.families import make_small
from tests.support.tiny_model import CHAT_TEMPLATE, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What is the capital of France?"),
    Message("assistant", "Paris."),
    Message("user", "And on which river?"),
]
PARAMS = GenerateParams(max_tokens=12, temperature=0)

# Shows the parts of a content, and of one that is text nothing.
PARTS_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
REFUSING_TEMPLATE = PARTS_TEMPLATE.replace(
    "{% for part",
    "{% if message.content is string %}{{ raise_exception('parts!') }}{% endif %}{% for part",
)


def save(family: str, directory: Path, template: str | None = PARTS_TEMPLATE) -> Path:
    tokenizer = train_tokenizer(template)
    make_small(family, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def ask(directory: Path, messages: list[Message] = CONVERSATION, **fields: Any) -> Any:
    generator = TransformersGenerator(model=str(directory), **fields)
    try:
        (result,) = asyncio.run(generator.generate_messages([messages], [PARAMS]))
    finally:
        generator.unload()
    return result


def expected(directory: Path) -> tuple[list[int], str]:
    """Return the tokens of the conversation, and what the model makes of them."""
    model = transformers.AutoModelForMultimodalLM.from_pretrained(directory)
    tokenizer = train_tokenizer(CHAT_TEMPLATE)
    messages = [message.to_openai() for message in CONVERSATION]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    output = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    return ids, tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "mistral3", "smolvlm", "voxtral"])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, PARTS_TEMPLATE, REFUSING_TEMPLATE])
def test_they_continue_conversations_of_text(family: str, template: str, tmp_path: Path) -> None:
    save(family, tmp_path, template)
    ids, text = expected(tmp_path)

    result = ask(tmp_path)

    assert isinstance(result, GeneratedMessage), result
    assert result.usage is not None
    assert result.usage.input_tokens == len(ids)
    assert result.message.text == text


def test_a_template_is_found_where_their_processors_keep_it(tmp_path: Path) -> None:
    save("qwen2_5_vl", tmp_path, template=None)
    with pytest.raises(BadRequestError, match="has no chat template"):
        raise ask(tmp_path)

    found = json.dumps({"chat_template": PARTS_TEMPLATE})
    (tmp_path / "chat_template.json").write_text(found, encoding="utf-8")

    assert ask(tmp_path).message.text == expected(tmp_path)[1]


def test_a_given_template_that_shows_parts_takes_its_place(tmp_path: Path) -> None:
    save("qwen2_5_vl", tmp_path, template="{{ 'another one' }}")

    assert ask(tmp_path, chat_template=PARTS_TEMPLATE).message.text == expected(tmp_path)[1]


def _encoder_decoder() -> Any:
    return transformers.UdopForConditionalGeneration(
        transformers.UdopConfig(
            vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4
        )
    )


def _classifier() -> Any:
    return transformers.DistilBertModel(
        transformers.DistilBertConfig(vocab_size=384, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_encoder_decoder, "a udop model has an encoder for what it reads"),
        (_classifier, "DistilBertConfig.*AutoModelForCausalLM"),
    ],
)
def test_what_does_not_continue_text_is_refused(
    make: Callable[[], Any], reason: str, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path)
    train_tokenizer(CHAT_TEMPLATE).save_pretrained(tmp_path)

    with pytest.raises(BadRequestError, match=reason):
        raise ask(tmp_path)
