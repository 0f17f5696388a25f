"""Each family of models that transformers knows says in a batch what it says alone."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING

import pytest
import torch

from rigging import GenerateParams
from rigging_transformers import TransformersGenerator
from rigging_transformers._joining import model_rolls
from rigging_transformers._layers import HAS_POSITIONS
from rigging_transformers._loaded import Loaded
from tests.support.families import MULTIMODAL, families, make_small
from tests.support.memory import out_of_memory
from tests.transformers.conftest import Reference, Steps, greedy

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first two are as many tokens, the others more and fewer; the last is read in parts.
PROMPTS = [
    "The quick brown fox",
    "What is it then?",
    "red, green, blue and yellow",
    "One",
    "What is the capital of France? The capital of France is Paris, on the Seine, and",
]
LIMITS = [8, 12, 9, 3, 9]

# The first is there all the time.
CALLERS = [
    (PROMPTS[number % 4] + " and" * (number % 5), 1 + 7 * number % 23 if number else 50)
    for number in range(20)
]

# Those of the models that people run most.
MUST_ROLL = {
    *("deepseek_v3", "gemma2", "gemma3", "gemma4", "gpt2", "gpt_oss", "granite", "llama", "llama4"),
    *("mistral", "mixtral", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_5", "qwen3_moe"),
    *("bamba", "deepseek_v32", "falcon_h1", "falcon_mamba", "granitemoehybrid", "mamba2"),
    *("nemotron_h", "qwen3_next", "smollm3", "zamba2"),
    *(family for family in MULTIMODAL if family not in {"kosmos-2.5", "paligemma"}),
}

# It rolls where layers hold positions, which they do not in the oldest transformers.
WITH_POSITIONS_IN_CACHE = ["qwen4_exp_text"] if HAS_POSITIONS else []


@pytest.fixture(autouse=True)
def _their_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("family", families())
def test_a_batch_says_what_each_prompt_gets_alone(
    family: str, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigging_transformers._loop._READ_ON_CPU", 12)
    alone = Reference(make_small(family, reference.tokenizer), reference.tokenizer)
    expected = [greedy(alone, *each) for each in zip(PROMPTS, LIMITS, strict=True)]
    params = [GenerateParams(max_tokens=limit, temperature=0) for limit in LIMITS]
    generator = TransformersGenerator.from_obj(*alone)

    results = asyncio.run(generator.generate_texts(PROMPTS, params))

    assert [str(result) for result in results] == expected
    assert model_rolls(Loaded(*alone, family)) or family not in MUST_ROLL


# With a window of 8 tokens in all layers, in some, and in none, or chunks; with recurrent layers,
# beside such with attention, in the same ones, and alone; with sparse attention; without positions.
@pytest.mark.parametrize(
    "family",
    [
        *("mistral", "gemma3_text", "gpt_oss", "gemma4_text", "llama", "llama4_text"),
        *("qwen3_5_text", "granitemoehybrid", "lfm2_moe", "nemotron_h"),
        *("falcon_h1", "inkling_text", "zaya", "mamba", "mamba2"),
        *("deepseek_v32", *WITH_POSITIONS_IN_CACHE, "bloom", "mpt"),
    ],
)
@pytest.mark.parametrize("spare", [1, 32])
def test_rows_that_come_and_go_say_what_they_say_alone(
    family: str, spare: int, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With little to spare, there are new buffers at each step.
    monkeypatch.setattr("rigging_transformers._cache._SPARE", spare)
    monkeypatch.setattr("rigging_transformers._cache._SHARE", 1_000_000)
    alone = Reference(make_small(family, reference.tokenizer), reference.tokenizer)
    steps = Steps()
    expected = [greedy(alone, *each) for each in CALLERS]

    with alone.model.register_forward_hook(steps):
        assert come_and_go(alone, steps) == expected
    assert steps.count < sum(limit for _, limit in CALLERS) / 2


@pytest.mark.parametrize(
    "family",
    ["gemma3_text", "qwen3_5_text", "falcon_h1", "mamba2", *WITH_POSITIONS_IN_CACHE, "llama"],
)
def test_memory_that_runs_out_within_a_step_changes_no_answer(
    family: str, reference: Reference
) -> None:
    alone = Reference(make_small(family, reference.tokenizer), reference.tokenizer)
    expected = [greedy(alone, *each) for each in CALLERS]
    steps, failed = Steps(), False

    def fail(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        nonlocal failed
        # In a step of several rows: the layers before have taken the token.
        rows, length, _ = inputs[0].shape
        if rows > 2 and length == 1 and steps.count > 8 and not failed:
            failed = True
            raise out_of_memory()

    last = alone.model.get_decoder().layers[-1]
    with alone.model.register_forward_hook(steps), last.register_forward_hook(fail):
        assert come_and_go(alone, steps) == expected
    assert failed


def come_and_go(alone: Reference, steps: Steps) -> list[str]:
    """Return the answers to `CALLERS`, of whom one comes every other step."""
    generator = TransformersGenerator.from_obj(*alone, max_batch_size=6)

    async def ask(number: int) -> str:
        await steps.reach(2 * number)
        prompt, limit = CALLERS[number]
        params = GenerateParams(max_tokens=limit, temperature=0)
        (result,) = await generator.generate_texts([prompt], [params])
        if isinstance(result, Exception):
            raise result
        return str(result)

    async def main() -> list[str]:
        return await asyncio.gather(*map(ask, range(len(CALLERS))))

    return asyncio.run(main())
