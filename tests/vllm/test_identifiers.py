from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator
from rigging_vllm._arguments import engine_arguments
from rigging_vllm._generator import _OURS

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
    (
        "vllm!m,enable_prefix_caching=false,block_size=32,seed=3",
        "m",
        {"enable_prefix_caching": False, "block_size": 32, "seed": 3},
        "vllm!m,seed=3,block_size=32,enable_prefix_caching=false",
    ),
    (
        'vllm!m,lora_modules={"sql":"./sql"},compilation_config={"mode":0}',
        "m",
        {"lora_modules": {"sql": "./sql"}, "compilation_config": {"mode": 0}},
        'vllm!m,lora_modules.sql=./sql,compilation_config={"mode":0}',
    ),
    (
        "vllm!m,lora_modules.sql=./sql,lora_modules.7=007",
        "m",
        {"lora_modules": {"sql": "./sql", "7": "007"}},
        "vllm!m,lora_modules.7=007,lora_modules.sql=./sql",
    ),
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
        ("vllm!m,blok_size=64", "did you mean 'block_size'"),
        ("vllm!m,temprature=0.5", "did you mean 'temperature'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(given: str, why: str) -> None:
    with pytest.raises(rg.error.InvalidIdentifierError, match=why):
        rg.get_generator(given)


def test_a_name_that_vllm_does_not_know_is_refused_wherever_it_is_given() -> None:
    with pytest.raises(rg.error.InvalidGeneratorError, match="did you mean 'block_size'"):
        VLLMGenerator(model="m", blok_size=32)
    generator = VLLMGenerator(model="m")
    with pytest.raises(rg.error.InvalidGeneratorError, match="did you mean 'block_size'"):
        generator.blok_size = 32
    generator.block_size = 32
    assert generator.to_identifier() == "vllm!m,block_size=32"


def test_the_names_are_those_of_vllms_own_dataclass() -> None:
    from vllm import AsyncEngineArgs

    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert engine_arguments() == fields
    assert VLLMGenerator.model_fields.keys() - _OURS <= fields


def test_a_hub_token_is_handed_on_and_shown_nowhere() -> None:
    for generator in (
        rg.get_generator("vllm!m,hf_token=hf_planted"),
        rg.get_generator("vllm!m,api_key=hf_planted"),
    ):
        assert isinstance(generator, VLLMGenerator)
        assert generator._spec().arguments["hf_token"] == "hf_planted"
        for shown in (generator, generator._spec(), generator.to_identifier()):
            assert "hf_planted" not in repr(shown)
