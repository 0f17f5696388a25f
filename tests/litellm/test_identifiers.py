"""Identifiers of the documentation and of the grammar's table, with the real class."""

from __future__ import annotations

from typing import Any

import pytest

import rigging as rg
from rigging_litellm import LiteLLMGenerator

NVIDIA = "https://integrate.api.nvidia.com/v1"

# What is given, the model, the params, the fields, and what it is written as.
ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any], str]] = [
    (
        "gpt-3.5-turbo,temperature=0.5",
        "gpt-3.5-turbo",
        {"temperature": 0.5},
        {},
        "litellm!gpt-3.5-turbo,temperature=0.5",
    ),
    (
        "openai/gpt-4,api_key=sk-1234",
        "openai/gpt-4",
        {},
        {"api_key": "sk-1234"},
        "litellm!openai/gpt-4",
    ),
    (
        "litellm!claude-3-sonnet-2024022",
        "claude-3-sonnet-2024022",
        {},
        {},
        "litellm!claude-3-sonnet-2024022",
    ),
    (
        "anthropic/claude-2.1,stop=output:;---,seed=1337",
        "anthropic/claude-2.1",
        {"stop": ["output:", "---"], "seed": 1337},
        {},
        "litellm!anthropic/claude-2.1,stop=output:;---,seed=1337",
    ),
    (
        "together_ai/meta-llama/Llama-3-70b-chat-hf",
        "together_ai/meta-llama/Llama-3-70b-chat-hf",
        {},
        {},
        "litellm!together_ai/meta-llama/Llama-3-70b-chat-hf",
    ),
    (
        f"openai/google/gemma-7b,api_base={NVIDIA}",
        "openai/google/gemma-7b",
        {"api_base": NVIDIA},
        {},
        f"litellm!openai/google/gemma-7b,api_base={NVIDIA}",
    ),
    (
        "litellm!openai/gpt-4o,max_connections=2,min_delay_between_requests=1000",
        "openai/gpt-4o",
        {},
        {"max_connections": 2, "min_delay_between_requests": 1000.0},
        "litellm!openai/gpt-4o,max_connections=2,min_delay_between_requests=1000.0",
    ),
    ("ollama/llama3.1:8b", "ollama/llama3.1:8b", {}, {}, "litellm!ollama/llama3.1:8b"),
    ("a%21b", "a!b", {}, {}, "litellm!a%21b"),
    (
        "m,extra.logprobs=true,extra.user=bob",
        "m",
        {"extra": {"logprobs": True, "user": "bob"}},
        {},
        "litellm!m,extra.logprobs=true,extra.user=bob",
    ),
    ("m,api_key=a=b=c", "m", {}, {"api_key": "a=b=c"}, "litellm!m"),
    ("LiteLLM!m", "m", {}, {}, "litellm!m"),
]


@pytest.mark.parametrize(
    ("given", "model", "params", "fields", "written"), ROWS, ids=[row[0] for row in ROWS]
)
def test_an_identifier_makes_a_generator_and_is_written_back(
    given: str, model: str, params: dict[str, Any], fields: dict[str, Any], written: str
) -> None:
    generator = rg.get_generator(given)

    assert generator == LiteLLMGenerator(model=model, params=rg.GenerateParams(**params), **fields)
    assert generator.api_key == fields.get("api_key")
    assert generator.to_identifier() == written
    assert rg.get_generator(written) == generator


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("m,max_connections=abc", "max_connections: expected an integer"),
        ("m,max_connections=-1", "max_connections: expected greater than or equal to 0"),
        ("m,min_delay_between_requests=-1", "expected greater than or equal to 0"),
        ("m,min_delay_between_requests=inf", "expected a finite number"),
        ("m,max_conections=2", "did you mean 'max_connections'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(given: str, why: str) -> None:
    with pytest.raises(rg.error.InvalidIdentifierError, match=why):
        rg.get_generator(given)
