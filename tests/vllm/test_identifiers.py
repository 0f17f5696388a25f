from __future__ import annotations

from typing import Any

import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator

TINY_LLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"

# What is given, the model, the fields, and what it is written as.
ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        f"vllm!{TINY_LLAMA},gpu_memory_utilization=0.3,trust_remote_code=True",
        TINY_LLAMA,
        {"gpu_memory_utilization": 0.3, "trust_remote_code": True},
        f"vllm!{TINY_LLAMA},gpu_memory_utilization=0.3,trust_remote_code=true",
    ),
    (
        f"VLLM!{TINY_LLAMA},trust_remote_code=true,dtype=float32,max_model_len=64",
        TINY_LLAMA,
        {"dtype": "float32", "trust_remote_code": True, "max_model_len": 64},
        f"vllm!{TINY_LLAMA},dtype=float32,trust_remote_code=true,max_model_len=64",
    ),
    (f"vllm!{TINY_LLAMA},dtype=auto", TINY_LLAMA, {}, f"vllm!{TINY_LLAMA}"),
]


@pytest.mark.parametrize(("given", "model", "fields", "written"), ROWS, ids=range(len(ROWS)))
def test_an_identifier_makes_a_generator_and_is_written_back(
    given: str, model: str, fields: dict[str, Any], written: str
) -> None:
    generator = rg.get_generator(given)

    assert generator == VLLMGenerator(model=model, **fields)
    assert generator.to_identifier() == written
    assert rg.get_generator(written) == generator


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("vllm!m,dtype=float31", "dtype: expected 'auto'"),
        ("vllm!m,gpu_memory_utilization=1.5", "less than or equal to 1"),
        ("vllm!m,tensor_parallel_size=0", "greater than or equal to 1"),
        ("vllm!m,max_modellen=64", "did you mean 'max_model_len'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(given: str, why: str) -> None:
    with pytest.raises(rg.error.InvalidIdentifierError, match=why):
        rg.get_generator(given)
