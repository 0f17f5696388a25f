"""Long prompts are read in parts, between which those that run go on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from rigging import GeneratedText, GenerateParams
from rigging.error import ProviderServerError, ProviderTimeoutError
from rigging_transformers import TransformersGenerator
from tests.support.families import KINDS, make_small
from tests.support.memory import out_of_memory
from tests.transformers.conftest import Reference, Steps, come_at, greedy

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tokens of a part.
PART = 8

LONG = "The quick brown fox jumps over the lazy dog. " * 6
SHORT = "What is the"


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rigging_transformers._loop._READ_ON_CPU", PART)


@pytest.fixture
def lengths(reference: Reference) -> Iterator[list[int]]:
    """Return the tokens of a row in each forward pass of the model."""
    lengths: list[int] = []
    with reference.model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    ):
        yield lengths


def params(tokens: int, **others: Any) -> GenerateParams:
    return GenerateParams(max_tokens=tokens, temperature=0, **others)


async def ask(generator: TransformersGenerator, prompt: str, own: GenerateParams) -> Any:
    (result,) = await generator.generate_texts([prompt], [own])
    return result


# The last begins anew with each part, and so is read at once.
@pytest.mark.parametrize("family", [*KINDS, "mamba"])
def test_parts_make_what_the_whole_prompt_makes(family: str, reference: Reference) -> None:
    alone = Reference(make_small(family, reference.tokenizer), reference.tokenizer)
    generator = TransformersGenerator.from_obj(*alone)
    rows = [(LONG, 12), (SHORT, 30), (LONG[40:], 9), (LONG[::-1], 20)]

    results = asyncio.run(
        generator.generate_texts([prompt for prompt, _ in rows], [params(n) for _, n in rows])
    )

    assert [str(result) for result in results] == [greedy(alone, *row) for row in rows]


def test_those_that_run_take_a_step_after_each_part(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, lengths: list[int]
) -> None:
    async def main() -> list[Any]:
        short = asyncio.create_task(ask(borrowing, SHORT, params(80)))
        long = await come_at(reference.model, steps, 3, lambda: ask(borrowing, LONG, params(4)))
        return [long, await short]

    results = asyncio.run(main())

    parts = [index for index, length in enumerate(lengths) if length > 1][1:]
    tokens = len(reference.tokenizer(LONG)["input_ids"])
    assert len(parts) == -(-tokens // PART) > 10
    assert all(lengths[index + 1] == 1 for index in parts), lengths
    assert max(lengths) == PART
    expected = [greedy(reference, LONG, 4), greedy(reference, SHORT, 80)]
    assert list(map(str, results)) == expected


def test_parts_become_shorter_the_more_there_is_before(
    borrowing: TransformersGenerator,
    reference: Reference,
    lengths: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rigging_transformers._rolling._CELLS", 4 * PART * PART)

    result = asyncio.run(ask(borrowing, LONG, params(1)))

    tokens = len(reference.tokenizer(LONG)["input_ids"])
    before = [sum(lengths[:index]) for index in range(len(lengths))]
    assert sum(lengths) == tokens > 8 * PART
    assert all(here * there <= 4 * PART * PART for here, there in zip(lengths, before, strict=True))
    assert max(lengths) == PART
    assert str(result) == greedy(reference, LONG, 1)


def test_a_short_prompt_does_not_wait_for_a_long_one(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, lengths: list[int]
) -> None:
    async def main() -> list[Any]:
        long = asyncio.create_task(ask(borrowing, LONG, params(4)))
        short = await come_at(reference.model, steps, 2, lambda: ask(borrowing, SHORT, params(1)))
        return [short, await long]

    results = asyncio.run(main())

    # It is read after the part at which it came.
    tokens = len(reference.tokenizer(SHORT)["input_ids"])
    assert lengths[:4] == [PART, PART, PART, tokens]
    assert list(map(str, results)) == [greedy(reference, SHORT, 1), greedy(reference, LONG, 4)]


@pytest.mark.parametrize("why", ["cancelled", "late"])
def test_nothing_is_read_for_nobody(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, why: str
) -> None:
    last = reference.model.model.layers[-1]

    async def main() -> int:
        own = params(4, timeout=1) if why == "late" else params(4)
        long = asyncio.create_task(ask(borrowing, LONG * 2, own))
        await steps.reach(1)
        if why == "late":
            assert isinstance(await long, ProviderTimeoutError)
            assert steps.count < 10, "it was read to its end"
        else:
            long.cancel()
            await asyncio.wait([long])
        seen = steps.count
        assert isinstance(await ask(borrowing, SHORT, params(1)), GeneratedText)
        await asyncio.to_thread(borrowing._engine.join)
        return steps.count - seen

    def slow(*_: object) -> None:
        time.sleep(0.3)

    with last.register_forward_hook(slow):
        # The rest of its part, and the other prompt.
        assert asyncio.run(main()) <= 2 + 1


@pytest.mark.parametrize("part", range(1, 8))
def test_memory_that_runs_out_in_a_part_changes_no_answer(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, part: int
) -> None:
    parts = 0

    def fail(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        nonlocal parts
        if steps.count > 3 and kwargs["input_ids"].shape[1] > 1:
            parts += 1
            if parts == part:
                raise out_of_memory()

    async def main() -> list[str]:
        short = asyncio.create_task(ask(borrowing, SHORT, params(60)))
        await steps.reach(4)
        long = await ask(borrowing, LONG, params(6))
        return [str(long), str(await short)]

    with reference.model.register_forward_pre_hook(fail, with_kwargs=True):
        results = asyncio.run(main())

    assert results == [greedy(reference, LONG, 6), greedy(reference, SHORT, 60)]
    assert parts > part


def test_a_part_that_never_fits_fails_its_own_request(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    def fail(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] == PART and kwargs["position_ids"].max() > 3 * PART:
            raise out_of_memory()

    async def main() -> list[Any]:
        both = ask(borrowing, LONG, params(6)), ask(borrowing, SHORT, params(6))
        return await asyncio.gather(*both)

    with reference.model.register_forward_pre_hook(fail, with_kwargs=True):
        long, short = asyncio.run(main())

    assert isinstance(long, ProviderServerError)
    assert "out of memory with one prompt alone" in str(long)
    assert str(short) == greedy(reference, SHORT, 6)
