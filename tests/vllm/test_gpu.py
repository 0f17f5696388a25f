"""What depends on the GPU. Where there is none, these are named as not run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.gpu

GREEDY = rg.GenerateParams(temperature=0, max_tokens=24)
PROMPTS = [f"Number {number} is" for number in range(64)]


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def on_gpu(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[VLLMGenerator]:
    """Compiled graphs and all, as users have it."""
    generator = VLLMGenerator(
        model=str(tiny_model), dtype=request.param, max_model_len=128, gpu_memory_utilization=0.3
    )
    yield generator
    generator.unload()


def texts_of(generator: VLLMGenerator, prompts: list[str]) -> list[str]:
    results = asyncio.run(generator.generate_texts(prompts, [GREEDY] * len(prompts)))
    return [str(result) for result in results]


def test_a_stream_gives_what_a_call_gives(on_gpu: VLLMGenerator) -> None:
    async def stream() -> list[Any]:
        return [piece async for piece in on_gpu.stream_texts("One two", GREEDY)]

    *pieces, last = asyncio.run(stream())

    assert "".join(pieces) == last.text
    assert [last.text] == texts_of(on_gpu, ["One two"])


def test_a_batch_that_is_made_again_says_the_same(on_gpu: VLLMGenerator) -> None:
    # Half precision rounds by the shape of the batch, so only the same batch is compared.
    assert texts_of(on_gpu, PROMPTS) == texts_of(on_gpu, PROMPTS)


def test_unloading_gives_the_memory_back_twice(on_gpu: VLLMGenerator) -> None:
    import torch

    on_gpu.unload()
    before, total = torch.cuda.mem_get_info()
    for _ in range(2):
        on_gpu.load()
        loaded, _ = torch.cuda.mem_get_info()
        on_gpu.unload()
        after, _ = torch.cuda.mem_get_info()

        assert before - loaded > 0.2 * total
        assert abs(before - after) < 0.05 * total


def test_two_engines_share_a_gpu(on_gpu: VLLMGenerator, tiny_model: Path) -> None:
    other = VLLMGenerator(
        model=str(tiny_model), dtype="float32", max_model_len=128, gpu_memory_utilization=0.3
    )
    try:
        assert len(texts_of(other, PROMPTS)) == len(texts_of(on_gpu, PROMPTS)) == len(PROMPTS)
    finally:
        other.unload()
