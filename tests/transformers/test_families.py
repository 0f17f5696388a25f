"""Each family of models that transformers knows says in a batch what it says alone."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING

import pytest

from rigging import GenerateParams
from rigging_transformers import TransformersGenerator
from tests.support.families import families, make_small
from tests.transformers.conftest import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first two are as many tokens, the others more and fewer.
PROMPTS = ["The quick brown fox", "What is it then?", "red, green, blue and yellow", "One"]
LIMITS = [8, 12, 10, 3]


@pytest.fixture(autouse=True)
def _their_own_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("family", families())
def test_a_batch_says_what_each_prompt_gets_alone(family: str, reference: Reference) -> None:
    alone = Reference(make_small(family, reference.tokenizer), reference.tokenizer)
    expected = [
        alone.text(alone.new_tokens(prompt, max_new_tokens=limit))
        for prompt, limit in zip(PROMPTS, LIMITS, strict=True)
    ]
    params = [GenerateParams(max_tokens=limit, temperature=0) for limit in LIMITS]
    generator = TransformersGenerator.from_obj(*alone)

    results = asyncio.run(generator.generate_texts(PROMPTS, params))

    assert [str(result) for result in results] == expected
