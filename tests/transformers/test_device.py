"""Tensors stay on the model's device, whatever a request asks for: none is left on the CPU."""

from __future__ import annotations

import asyncio
import copy
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from rigging import GeneratedText, GenerateParams
from rigging.error import ProviderServerError
from rigging_transformers import TransformersGenerator
from rigging_transformers._rolling import RollingBatch
from tests.support.families import KINDS, make_small
from tests.support.strict_device import DEVICE, StrictDevice, move, random_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.transformers.conftest import Reference

PROMPTS = [
    "The quick brown fox",
    "One",
    "What is the capital of France? The capital of France is",
    "red, green, blue and",
]


@contextmanager
def on_device(reference: Reference) -> Iterator[TransformersGenerator]:
    """Give the tiny model on `DEVICE`; meanwhile, threads that start can use that."""
    run = threading.Thread.run

    def run_on_device(thread: threading.Thread) -> None:
        with StrictDevice():
            run(thread)

    model = copy.deepcopy(reference.model)
    move(model)
    assert model.device == DEVICE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "run", run_on_device)  # the engine's is one of its own
        patch.setattr(torch, "Generator", random_numbers)
        patch.setattr(torch, "inference_mode", torch.no_grad)  # it lets no tensor claim a device
        yield TransformersGenerator.from_obj(model, reference.tokenizer)


def say(
    generator: TransformersGenerator, params: Sequence[GenerateParams]
) -> list[GeneratedText | BaseException]:
    return list(asyncio.run(generator.generate_texts(PROMPTS, params)))


@pytest.mark.parametrize(
    "each",
    [
        pytest.param({"temperature": 0}, id="greedy"),
        pytest.param({"temperature": 0, "stop": ["e", "a"]}, id="stop"),
        pytest.param({"temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 1}, id="sampled"),
        pytest.param({"temperature": 0, "presence_penalty": 1.0}, id="presence"),
        pytest.param({"temperature": 0, "frequency_penalty": 1.0}, id="frequency"),
        pytest.param({"temperature": 0, "extra": {"repetition_penalty": 1.3}}, id="repetition"),
        pytest.param({"temperature": 0, "extra": {"no_repeat_ngram_size": 2}}, id="n-grams"),
        pytest.param({"seed": 1, "extra": {"min_p": 0.1}}, id="min-p"),
        pytest.param({"seed": 1, "extra": {"typical_p": 0.9}}, id="typical-p"),
        pytest.param({"seed": 1, "extra": {"epsilon_cutoff": 3e-4}}, id="epsilon"),
        pytest.param({"seed": 1, "extra": {"eta_cutoff": 3e-4}}, id="eta"),
        pytest.param({"seed": 1, "extra": {"top_h": 0.5}}, id="top-h"),
        pytest.param({"temperature": 0, "extra": {"min_new_tokens": 4}}, id="generate"),
        pytest.param({"seed": 1, "extra": {"min_new_tokens": 4}}, id="generate-sampled"),
        pytest.param({"temperature": 0, "extra": {"num_beams": 2}}, id="beams"),
        pytest.param({"temperature": 0, "extra": {"cache_implementation": "static"}}, id="static"),
    ],
)
def test_a_batch_says_on_a_device_what_it_says_on_the_cpu(
    reference: Reference, borrowing: TransformersGenerator, each: dict[str, Any]
) -> None:
    # Of several lengths, so that rows leave between two steps.
    params = [GenerateParams(max_tokens=4 + 3 * n, **each) for n in range(len(PROMPTS))]

    with on_device(reference) as generator:
        said = say(generator, params)

    assert said == say(borrowing, params)


@pytest.mark.parametrize("family", KINDS)
def test_models_of_all_kinds_say_there_what_they_say_on_the_cpu(
    reference: Reference, family: str
) -> None:
    alone = type(reference)(make_small(family, reference.tokenizer), reference.tokenizer)
    # Off the CPU, experts are usually told apart by an operation that the CPU below does not have.
    alone.model.config.get_text_config()._experts_implementation = "batched_mm"
    params = [GenerateParams(max_tokens=4 + 3 * n, temperature=0) for n in range(len(PROMPTS))]

    with on_device(alone) as generator:
        said = say(generator, params)

    assert said == say(TransformersGenerator.from_obj(*alone), params)


def test_what_is_left_on_the_cpu_is_refused(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RollingBatch, "_tensor", lambda _, values: torch.tensor(values))

    with on_device(reference) as generator:
        results = say(generator, [GenerateParams(max_tokens=2)] * len(PROMPTS))

    for result in results:
        assert isinstance(result, ProviderServerError)
        assert "expected all tensors to be on the same device" in str(result)


def test_prompts_that_join_beside_generate_are_read_as_ever(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = type(reference)(make_small("mixtral", reference.tokenizer), reference.tokenizer)
    generator = TransformersGenerator.from_obj(*alone)
    usual = alone.model.config._experts_implementation
    seen: list[tuple[int, str]] = []

    @contextmanager
    def for_decoding(model: Any) -> Iterator[None]:
        """What transformers does off the CPU: there, experts copy weights for each token."""
        model.set_experts_implementation("batched_mm")
        yield
        model.set_experts_implementation(usual)

    def note(_module: object, _inputs: object, kwargs: dict[str, Any]) -> None:
        length = kwargs["input_ids"].shape[1]
        seen.append((length, alone.model.config._experts_implementation))

    async def main() -> None:
        params = GenerateParams(max_tokens=20, temperature=0, extra={"min_new_tokens": 20})
        other = asyncio.create_task(generator.generate_texts(["One"], [params]))
        while len(seen) < 3:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.001)
        await generator.generate_texts(PROMPTS, [GenerateParams(max_tokens=2)] * len(PROMPTS))
        await other

    monkeypatch.setattr(transformers.GenerationMixin, "_optimize_model_for_decode", for_decoding)
    with alone.model.register_forward_pre_hook(note, with_kwargs=True):
        asyncio.run(main())

    assert usual != "batched_mm"
    assert {kind for length, kind in seen if length > 1} == {usual}
    assert (1, "batched_mm") in seen
