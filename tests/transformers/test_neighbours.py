"""What one request asks for, or where it ends, is nobody else's concern."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch

from rigging import GeneratedText, GenerateParams
from rigging.error import BadRequestError
from rigging_transformers import TransformersGenerator
from tests.support.tiny_model import train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transformers.conftest import Reference

PROMPTS = ["one", "The quick brown fox, red and", "What is", "nine; ten and blue. Paris?", "red"]


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 1.0, "extra": {"min_p": 5}},
        {"temperature": 1.0, "extra": {"typical_p": -1}},
        {"temperature": 1.0, "extra": {"top_h": "a"}},
        {"temperature": 1.0, "extra": {"epsilon_cutoff": 2}},
        {"temperature": 0, "extra": {"num_beams": "x"}},
        {"temperature": 0, "extra": {"num_beams": 0}},
        {"temperature": 0, "extra": {"eos_token_id": 2.5}},
        {"temperature": 0, "extra": {"eos_token_id": [[2]]}},
        {"temperature": 0, "extra": {"suppress_tokens": "x"}},
        {"temperature": 0, "stop": ["\ud800"]},
    ],
    ids=str,
)
def test_a_parameter_that_does_not_fit_fails_its_own_request(
    borrowing: TransformersGenerator, reference: Reference, bad: dict[str, Any]
) -> None:
    fine = GenerateParams(max_tokens=12, temperature=0)

    first, wrong, last = asyncio.run(
        borrowing.generate_texts(
            ["one", "two", "six"], [fine, GenerateParams(max_tokens=12, **bad), fine]
        )
    )

    assert isinstance(wrong, BadRequestError)
    expected = [
        reference.text(reference.new_tokens(prompt, max_new_tokens=12)) for prompt in ("one", "six")
    ]
    assert [str(first), str(last)] == expected


def test_a_row_at_the_contexts_edge_leaves_its_neighbours_alone() -> None:
    import transformers

    tokenizer = train_tokenizer(None)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=None,
        )
    ).eval()
    generator = TransformersGenerator.from_obj(model, tokenizer)
    # `generate` runs it, and its table of positions ends with the context.
    params = GenerateParams(max_tokens=20, temperature=0, extra={"suppress_tokens": [70]})
    prompts = ["\x01" * 62, "The", "red"]

    together = asyncio.run(generator.generate_texts(prompts, [params] * 3))
    alone = [asyncio.run(generator.generate_texts([p], [params]))[0] for p in prompts]

    assert all(isinstance(result, GeneratedText) for result in together)
    assert [str(result) for result in together] == [str(result) for result in alone]


def _longrope() -> Any:
    import transformers

    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    return transformers.LlamaConfig(
        **SMALL,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        rope_parameters={**rope, **factors},
    )


def _recurrent() -> Any:
    import transformers

    return transformers.RecurrentGemmaConfig(
        **{**SMALL, "num_hidden_layers": 3},
        block_types=["recurrent", "recurrent", "attention"],
        num_attention_heads=4,
        lru_width=32,
        attention_window_size=8,
    )


def _without_positions() -> Any:
    import transformers

    return transformers.BartConfig(
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        init_std=0.3,
        is_decoder=True,
        is_encoder_decoder=False,
        vocab_size=384,
        forced_eos_token_id=None,
    )


SMALL: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("config", [_longrope, _recurrent, _without_positions])
def test_rows_of_other_lengths_change_nothing_where_padding_would(
    config: Callable[[], Any],
) -> None:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config()).eval()
    generator = TransformersGenerator.from_obj(model, train_tokenizer(None))
    params = GenerateParams(max_tokens=16, temperature=0)

    together = asyncio.run(generator.generate_texts(PROMPTS, [params] * len(PROMPTS)))
    alone = [asyncio.run(generator.generate_texts([p], [params]))[0] for p in PROMPTS]

    assert [str(result) for result in together] == [str(result) for result in alone]
    assert all(isinstance(result, GeneratedText) for result in together)


@pytest.mark.parametrize(
    "extra",
    [
        {"forced_eos_token_id": 5},
        {"forced_eos_token_id": 0},
        {"min_length": 20},
        {"encoder_repetition_penalty": 3.0},
    ],
    ids=str,
)
def test_extras_that_count_from_the_batchs_width_mean_the_same_for_each_row(
    borrowing: TransformersGenerator, extra: dict[str, Any]
) -> None:
    params = [
        GenerateParams(max_tokens=limit, temperature=0, extra=extra) for limit in (4, 12, 7, 9, 12)
    ]

    together = asyncio.run(borrowing.generate_texts(PROMPTS, params))
    alone = [
        asyncio.run(borrowing.generate_texts([p], [own]))[0]
        for p, own in zip(PROMPTS, params, strict=True)
    ]

    assert [str(result) for result in together] == [str(result) for result in alone]


@pytest.mark.parametrize("option", ["forced_bos_token_id", "encoder_no_repeat_ngram_size"])
def test_extras_that_take_padding_for_the_prompt_mean_the_same_for_each_row(
    reference: Reference, option: str
) -> None:
    # The short prompt is one token, and is padded with what it is followed by.
    first, *_ = reference.new_tokens("a", max_new_tokens=1)
    tokenizer = copy.deepcopy(reference.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(first)
    assert len(tokenizer("a")["input_ids"]) == 1
    generator = TransformersGenerator.from_obj(reference.model, tokenizer)
    value = tokenizer.convert_tokens_to_ids("Q") if option == "forced_bos_token_id" else 1
    params = GenerateParams(max_tokens=4, temperature=0, extra={option: value})

    (alone,) = asyncio.run(generator.generate_texts(["a"], [params]))
    together, _ = asyncio.run(generator.generate_texts(["a", PROMPTS[1]], [params] * 2))

    assert str(together) == str(alone)
