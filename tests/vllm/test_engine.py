"""Starting and ending engines, and those of others."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_vllm import VLLMGenerator
from tests.vllm.conftest import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

GREEDY = rg.GenerateParams(temperature=0, max_tokens=4)


def ask(generator: VLLMGenerator, text: str = "One two") -> Any:
    (result,) = asyncio.run(generator.generate_texts([text], [GREEDY]))
    return result


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.fixture
def own(shared: VLLMGenerator) -> Iterator[VLLMGenerator]:
    """A generator for tests that start engines; the shared one makes room meanwhile."""
    shared.unload()
    generator = copy.deepcopy(shared)
    yield generator
    generator.unload()


def test_memory_comes_back_and_the_next_use_loads_again(own: VLLMGenerator) -> None:
    before = ask(own).text
    loaded = resident_mib()

    assert own.unload().unload() is own
    unloaded = resident_mib()

    # The cache for keys and values alone is a GiB, by the environment of the tests.
    assert unloaded < loaded - 500
    assert ask(own).text == before


def test_an_engine_that_fails_is_replaced(own: VLLMGenerator) -> None:
    own.load()
    broken = own._engine._own

    def fail() -> None:
        raise RuntimeError("out of luck")

    broken.llm_engine.step = fail
    one, two = asyncio.run(own.generate_texts(["One", "Two"], [GREEDY] * 2))

    for result in (one, two):
        assert isinstance(result, rg.error.ProviderServerError)
        assert result.retryable
        assert "out of luck" in str(result)
        assert isinstance(result.__cause__, RuntimeError)
    assert isinstance(ask(own), rg.GeneratedText)
    assert own._engine._own is not broken


def test_a_field_that_was_assigned_makes_another_engine(own: VLLMGenerator) -> None:
    ask(own)
    own.max_model_len = 32

    assert isinstance(ask(own, "x" * 48), rg.error.ContextLengthError)


def test_what_vllm_refuses_to_load_is_an_error_of_the_generator(tiny_model: Path) -> None:
    generator = VLLMGenerator(model=str(tiny_model), **{**SMALL, "max_model_len": 10**6})

    with pytest.raises(rg.error.InvalidGeneratorError, match="max_model_len") as caught:
        generator.load()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_model_that_the_hub_does_not_have_is_not_found() -> None:
    generator = VLLMGenerator(model="nobody/has-such-a-model", **SMALL)

    with pytest.raises(rg.error.ModelNotFoundError, match="vLLM cannot get the model") as caught:
        asyncio.run(generator.complete("Hi").run())
    assert isinstance(caught.value.__cause__, OSError)


def test_no_request_loads_nothing(tiny_model: Path) -> None:
    generator = VLLMGenerator(model=str(tiny_model))

    assert asyncio.run(generator.generate_texts([], [])) == []
    assert generator._engine._own is None


# -- Engines of others -------------------------------------------------------------------


def test_an_engine_of_the_callers_is_used_and_left_alone(
    mine: VLLMGenerator, shared: VLLMGenerator
) -> None:
    assert ask(mine).text == ask(shared).text
    assert mine.load().unload().unload() is mine
    assert ask(mine).text == ask(shared).text
    assert mine.to_identifier() == "vllm!mine,temperature=0.0"


def test_a_copy_shares_the_callers_engine(mine: VLLMGenerator) -> None:
    assert ask(copy.deepcopy(mine)).text == ask(mine).text


def test_a_generator_with_the_callers_engine_does_not_pickle(mine: VLLMGenerator) -> None:
    with pytest.raises(rg.RiggingError, match=r"from_obj\), which cannot be pickled"):
        pickle.dumps(mine)


@pytest.mark.parametrize("llm", [None, "a path", object, VLLMGenerator])
def test_something_else_than_an_engine_is_refused(llm: object) -> None:
    with pytest.raises(rg.error.InvalidGeneratorError, match=r"takes a vllm\.LLM, got "):
        VLLMGenerator.from_obj("mine", llm)
