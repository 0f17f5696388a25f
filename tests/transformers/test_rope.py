"""Rotary positions that a configuration stretches, and those that shift with a row's length."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from rigging import GeneratedText, GenerateParams
from rigging.error import ContextLengthError
from rigging_transformers import TransformersGenerator
from rigging_transformers._loaded import Loaded
from tests.support.families import make_small
from tests.transformers.conftest import Reference, Steps, come_at, greedy

if TYPE_CHECKING:
    from collections.abc import Callable

# Of 2, 10, 3, 22, 2 and 22 tokens.
LONG = "nine; ten and blue. Paris?" * 2
PROMPTS = ["one", "The quick brown fox, red and", "What is", LONG, "red", LONG[::-1]]
LIMITS = [16, 10, 30, 12, 20, 9]

# Beyond this many tokens, positions shift.
EDGE = 24


def make(tokenizer: Any, kind: str, *, context: int = 256, **rope: Any) -> Any:
    """Make a small Llama with positions of some kind, the same one every time."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **rope},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def _longrope(tokenizer: Any) -> Any:
    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0, 6.0, 5.0, 4.0]}
    return make(tokenizer, "longrope", original_max_position_embeddings=EDGE, factor=8.0, **factors)


def _dynamic(tokenizer: Any) -> Any:
    return make(tokenizer, "dynamic", context=EDGE, factor=8.0)


def _phi3(tokenizer: Any) -> Any:
    # It reads a row anew that passes the edge.
    model = make_small("phi3", tokenizer)
    config = model.config
    config.original_max_position_embeddings = EDGE
    config.sliding_window = None
    size = config.hidden_size // config.num_attention_heads // 2
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": EDGE,
        "short_factor": [1.0] * size,
        "long_factor": [8.0] * size,
    }
    shifting = type(model)(config).eval()
    shifting.load_state_dict(model.state_dict())
    return shifting


KINDS = pytest.mark.parametrize("maker", [_longrope, _dynamic, _phi3])


@KINDS
@pytest.mark.parametrize("extra", [{}, {"suppress_tokens": [300]}], ids=["rolling", "generate"])
def test_rows_on_both_sides_of_the_edge_say_what_they_say_alone(
    reference: Reference, maker: Callable[[Any], Any], extra: dict[str, Any]
) -> None:
    tokenizer = _unbounded(reference)
    together = _ask(maker(tokenizer), tokenizer, PROMPTS, LIMITS, **extra)

    # A model of its own for each: some remember.
    alone = [
        Reference(maker(tokenizer), tokenizer).new_tokens(prompt, max_new_tokens=limit, **extra)
        for prompt, limit in zip(PROMPTS, LIMITS, strict=True)
    ]
    assert together == [reference.text(tokens) for tokens in alone]


@KINDS
def test_rows_that_stay_below_the_edge_come_and_go(
    reference: Reference, maker: Callable[[Any], Any]
) -> None:
    tokenizer, steps = _unbounded(reference), Steps()
    model = maker(tokenizer)
    generator = TransformersGenerator.from_obj(model, tokenizer)
    rows = [("one", EDGE - 2), ("What is", 12), ("red", 9), (PROMPTS[1], EDGE - 10)]

    async def ask(*which: int) -> list[str]:
        prompts, limits = zip(*(rows[number] for number in which), strict=True)
        own = [GenerateParams(max_tokens=limit, temperature=0) for limit in limits]
        return list(map(str, await generator.generate_texts(prompts, own)))

    async def main() -> list[str]:
        first = asyncio.create_task(ask(0))
        others = await come_at(model, steps, 3, lambda: ask(1, 2, 3))
        return [*await first, *others]

    with model.register_forward_hook(steps):
        together = asyncio.run(main())

    # Those of the first, and one to read each of the others.
    assert steps.count <= EDGE - 2 + 3
    assert together == [greedy(Reference(maker(tokenizer), tokenizer), *row) for row in rows]


@pytest.mark.parametrize("maker", [_longrope, _phi3])
def test_rows_that_begin_beyond_the_edge_share_their_steps(
    reference: Reference, maker: Callable[[Any], Any]
) -> None:
    tokenizer, steps = _unbounded(reference), Steps()
    model = maker(tokenizer)
    # One passes the edge on its way, and runs by itself.
    prompts, limits = [LONG * 2, LONG, LONG + " one and two", "one " + LONG * 3], [16, 9, 12, 14]

    with model.register_forward_hook(steps):
        together = _ask(model, tokenizer, prompts, limits)

    assert steps.count <= 16 + 9
    alone = [Reference(maker(tokenizer), tokenizer) for _ in prompts]
    assert together == [greedy(*each) for each in zip(alone, prompts, limits, strict=True)]


@pytest.mark.parametrize("shorter", [EDGE, EDGE + 4])
def test_a_long_row_leaves_nothing_to_the_next(reference: Reference, shorter: int) -> None:
    tokenizer = _unbounded(reference)
    model = _dynamic(tokenizer)
    prompt = tokenizer.decode(tokenizer(LONG * 2)["input_ids"][:shorter])
    assert len(tokenizer(prompt)["input_ids"]) == shorter

    _, *texts = (*_ask(model, tokenizer, [LONG * 3], [16]), *_ask(model, tokenizer, [prompt], [16]))

    assert texts == [greedy(Reference(_dynamic(tokenizer), tokenizer), prompt, 16)]


@pytest.mark.parametrize(
    ("kind", "rope", "most", "context"),
    [
        ("default", {}, None, 64),
        ("llama3", {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, None, 64),
        ("linear", {"factor": 4.0}, None, 256),
        ("linear", {"factor": 2.5}, None, 160),
        ("linear", {"factor": 4.0}, 128, 128),
        ("linear", {"factor": 4.0}, 32, 64),
        ("dynamic", {"factor": 4.0}, None, 256),
        # The original context, which it is by default, and the stretched one.
        ("yarn", {"factor": 4.0}, None, 256),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 64}, 128, 256),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 16}, None, 64),
    ],
)
def test_the_context_is_what_the_scaling_makes_of_it(
    reference: Reference, kind: str, rope: dict[str, Any], most: int | None, context: int
) -> None:
    tokenizer = _unbounded(reference)
    if most is not None:
        tokenizer.model_max_length = most
    if kind == "llama3":
        rope = {**rope, "original_max_position_embeddings": 16}
    model = make(tokenizer, kind, context=64, **rope)
    assert Loaded(model, tokenizer, "it").context == context

    generator = TransformersGenerator.from_obj(model, tokenizer)
    ids = (tokenizer("red, green, blue and yellow " * 99)["input_ids"])[: context - 2]
    fits, fills = tokenizer.decode(ids), tokenizer.decode(ids) + " one two"
    assert len(tokenizer(fits)["input_ids"]) == context - 2
    params = GenerateParams(max_tokens=16, temperature=0)

    result, refused = asyncio.run(generator.generate_texts([fits, fills], [params] * 2))

    assert isinstance(result, GeneratedText)
    assert result.usage is not None
    assert result.usage.output_tokens == 2
    assert isinstance(refused, ContextLengthError)
    assert f"the model's context {context}" in str(refused)


def _unbounded(reference: Reference) -> Any:
    """Return the tokenizer, as one that says nothing of how much the model can take."""
    tokenizer = copy.deepcopy(reference.tokenizer)
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def _ask(
    model: Any, tokenizer: Any, prompts: list[str], limits: list[int], **extra: Any
) -> list[str]:
    generator = TransformersGenerator.from_obj(model, tokenizer)
    params = [GenerateParams(max_tokens=n, temperature=0, extra=extra) for n in limits]
    return list(map(str, asyncio.run(generator.generate_texts(prompts, params))))
