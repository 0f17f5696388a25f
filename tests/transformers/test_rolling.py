"""The rolling batch: rows join and leave between two steps, and none minds the others."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from rigging import GeneratedText, GenerateParams
from rigging.error import ProviderServerError, ProviderTimeoutError
from rigging_transformers import TransformersGenerator
from rigging_transformers._joining import model_rolls
from rigging_transformers._layers import _zeros
from rigging_transformers._loaded import Loaded
from rigging_transformers._rolling import RollingBatch
from rigging_transformers._row import cut_at_stop
from tests.support.families import make_small
from tests.support.memory import out_of_memory
from tests.transformers.conftest import Steps, greedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.transformers.conftest import Reference

WORDS = [
    "The",
    "quick",
    "brown",
    "fox,",
    "red",
    "and",
    "blue.",
    "What",
    "is",
    "one",
    "of",
    "nine;",
    "Paris?",
]
LONG = GenerateParams(max_tokens=150, temperature=0)
SHORT = GenerateParams(max_tokens=3, temperature=0)


# -- Joining and leaving -----------------------------------------------------------------


def test_a_short_request_that_comes_later_is_answered_first(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    answered: list[str] = []

    async def ask(name: str, params: GenerateParams) -> None:
        await borrowing.generate_texts(["Hello"], [params])
        answered.append(name)

    async def main() -> None:
        long = asyncio.create_task(ask("long", LONG))
        await steps.reach(5)
        await ask("short", SHORT)
        await long

    asyncio.run(main())

    assert answered == ["short", "long"]
    assert steps.count <= 150 + 1, "it took steps of its own"


def test_a_row_that_ends_leaves_and_one_that_waits_takes_its_place(
    borrowing: TransformersGenerator, widths: list[int]
) -> None:
    borrowing.max_batch_size = 2
    params = [GenerateParams(max_tokens=n, temperature=0) for n in (2, 4, 3)]

    asyncio.run(borrowing.generate_texts(["one", "two", "three"], params))

    # Both read, both step; the third is read, and steps with the second; then alone.
    assert widths == [2, 2, 1, 2, 2]


def test_what_goes_on_unchanged_is_not_sent_to_the_device_again(
    borrowing: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    tensor = RollingBatch._tensor

    def noting(self: RollingBatch, values: Any) -> torch.Tensor:
        sent.append(values)
        return tensor(self, values)

    monkeypatch.setattr(RollingBatch, "_tensor", noting)

    asyncio.run(borrowing.generate_texts(["one"], [LONG]))

    # The prompt and where it begins, then the first token and where it stands.
    assert len(sent) == 4


def test_a_call_ends_when_its_own_row_does(borrowing: TransformersGenerator) -> None:
    async def main() -> list[int]:
        calls = [
            borrowing.complete("Hello").with_(max_tokens=n, temperature=0).run()
            for n in (40, 2, 20)
        ]
        ended: list[int] = []
        for done in asyncio.as_completed(calls):
            usage = (await done).usage
            ended.append(usage.output_tokens if usage else 0)
        return ended

    assert asyncio.run(main()) == [2, 20, 40]


@pytest.mark.parametrize("seed", range(4))
def test_answers_do_not_depend_on_who_comes_when(
    borrowing: TransformersGenerator, reference: Reference, seed: int
) -> None:
    draw = random.Random(seed)  # noqa: S311
    borrowing.max_batch_size = draw.choice([3, 8, 64])
    requests = [
        (" ".join(draw.choices(WORDS, k=draw.randint(1, 25))), draw.randint(1, 40))
        for _ in range(24)
    ]

    async def ask(prompt: str, tokens: int) -> str:
        await asyncio.sleep(draw.random() * 0.2)
        params = GenerateParams(max_tokens=tokens, temperature=0)
        (result,) = await borrowing.generate_texts([prompt], [params])
        return str(result)

    async def main() -> list[str]:
        return await asyncio.gather(*(ask(*request) for request in requests))

    said = asyncio.run(main())

    assert said == [greedy(reference, *request) for request in requests]


def test_rows_keep_their_parameters_while_others_leave(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    prompt = "What is the capital of France?"
    plain = GenerateParams(max_tokens=20, temperature=0)
    leaving = [plain.merge_with(GenerateParams(max_tokens=n)) for n in (1, 3, 5, 7)]
    penalized = plain.merge_with(GenerateParams(frequency_penalty=100.0))
    one_likely = GenerateParams(max_tokens=20, temperature=1.0, top_k=1)
    params = [leaving[0], penalized, leaving[1], one_likely, leaving[2], plain, leaving[3]]

    results = asyncio.run(borrowing.generate_texts([prompt] * 7, params))
    (alone,) = asyncio.run(borrowing.generate_texts([prompt], [penalized]))

    said = [str(result) for result in results]
    assert said[1] == str(alone) != said[5]
    assert said[3] == said[5] == greedy(reference, prompt, 20)
    for result, n in zip(said[::2], (1, 3, 5, 7), strict=True):
        assert result == greedy(reference, prompt, n)


def test_a_seeded_request_repeats_whoever_comes_beside(borrowing: TransformersGenerator) -> None:
    seeded = GenerateParams(temperature=1.5, seed=11, max_tokens=30)
    crowd = GenerateParams(temperature=1.0, max_tokens=30)

    async def among(others: int) -> str:
        beside = [
            asyncio.create_task(borrowing.generate_texts([f"number {n}"], [crowd]))
            for n in range(others)
        ]
        (result,) = await borrowing.generate_texts(["Hello"], [seeded])
        await asyncio.gather(*beside)
        return str(result)

    assert len({asyncio.run(among(others)) for others in (0, 1, 7)}) == 1


def test_hundreds_of_seeded_requests_say_together_what_each_says_alone(
    borrowing: TransformersGenerator, widths: list[int]
) -> None:
    draw = random.Random(3)  # noqa: S311
    filters = [
        GenerateParams(temperature=1.0),
        GenerateParams(top_p=0.8),
        GenerateParams(top_k=0),
        GenerateParams(temperature=2.0),
        GenerateParams(temperature=1.0, extra={"min_p": 0.05}),
    ]
    requests = [
        (
            " ".join(draw.choices(WORDS, k=draw.randint(1, 12))),
            GenerateParams(seed=7, max_tokens=draw.randint(1, 8)).merge_with(draw.choice(filters)),
        )
        for _ in range(300)
    ]
    prompts, params = zip(*requests, strict=True)
    noise = GenerateParams(temperature=1.0, max_tokens=4)

    async def main() -> tuple[list[str], int, list[str]]:
        beside = asyncio.create_task(borrowing.generate_texts(["by the way"] * 50, [noise] * 50))
        together = await borrowing.generate_texts(prompts, params)
        await beside
        widest = max(widths)
        alone = [await borrowing.generate_texts([p], [own]) for p, own in requests]
        return list(map(str, together)), widest, [str(result) for (result,) in alone]

    together, widest, alone = asyncio.run(main())

    assert together == alone
    assert widest > 32, "they ran one by one"
    assert len(set(alone)) > 200, "the seeds do not tell anything apart"


def test_seeded_rows_of_a_model_in_half_precision_run_alone(
    reference: Reference,
) -> None:
    model = copy.deepcopy(reference.model).to(torch.bfloat16)
    generator = TransformersGenerator.from_obj(model, reference.tokenizer)
    seeded = GenerateParams(temperature=1.0, seed=1, max_tokens=12)
    crowd = GenerateParams(temperature=1.0, max_tokens=12)
    prompts = [f"number {n}" for n in range(16)]

    together = asyncio.run(
        generator.generate_texts([*prompts, *prompts], [seeded] * 16 + [crowd] * 16)
    )
    alone = [asyncio.run(generator.generate_texts([p], [seeded])) for p in prompts]

    assert list(map(str, together[:16])) == [str(result) for (result,) in alone]


@pytest.fixture
def imprecise() -> Iterator[None]:
    """Less precise multiplication, set the newer way, after which torch refuses the older one."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = "none"


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="of torch since 2.9")
@pytest.mark.usefixtures("imprecise")
def test_seeded_rows_run_alone_where_multiplication_is_less_precise(
    borrowing: TransformersGenerator, widths: list[int]
) -> None:
    seeded = GenerateParams(temperature=1.0, seed=1, max_tokens=4)

    results = asyncio.run(borrowing.generate_texts(["one", "two"], [seeded] * 2))

    assert all(isinstance(result, GeneratedText) for result in results)
    assert set(widths) == {1}


def test_much_padding_is_refused_and_nobody_starves(
    borrowing: TransformersGenerator, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rigging_transformers._grouping._FREE_CELLS", 0)
    monkeypatch.setattr("rigging_transformers._grouping._CELLS_PER_TOKEN", 2)
    prompts = ["word " * 60, *"abcdef"]

    results = asyncio.run(borrowing.generate_texts(prompts, [SHORT] * 7))

    assert all(isinstance(result, GeneratedText) for result in results)
    assert max(widths) < 7


# -- Memory ------------------------------------------------------------------------------


class Scarce:
    """A model's memory has room for so many rows only, from some step on."""

    def __init__(self, rows: int, after: int = 0) -> None:
        self.rows, self.after, self.passes = rows, after, 0

    def __call__(self, _module: object, _args: object, kwargs: dict[str, Any]) -> None:
        self.passes += 1
        if len(kwargs["input_ids"]) > self.rows and self.passes > self.after:
            raise out_of_memory()


@pytest.mark.parametrize("after", [0, 4], ids=["reading", "stepping"])
@pytest.mark.parametrize("options", [{}, {"remove_invalid_values": True}], ids=["rolling", "other"])
def test_out_of_memory_halves_the_batch_and_goes_on(
    borrowing: TransformersGenerator,
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
    after: int,
    options: dict[str, Any],
) -> None:
    prompts = [f"number {n}" for n in range(6)]
    params = GenerateParams(max_tokens=10, temperature=0, extra=options)
    with reference.model.register_forward_pre_hook(Scarce(2, after), with_kwargs=True):
        results = asyncio.run(borrowing.generate_texts(prompts, [params] * 6))

    assert [str(result) for result in results] == [greedy(reference, p, 10) for p in prompts]
    assert "ran out of memory with 6 prompts at once" in caplog.text


@pytest.mark.parametrize("kind", ["first", "least", "decay"])
def test_memory_that_runs_out_half_way_lets_no_option_count_anew(
    borrowing: TransformersGenerator, reference: Reference, kind: str
) -> None:
    prompt = "What is the capital of France?"
    tokens = reference.new_tokens(prompt, max_new_tokens=12)
    assert tokens[7] not in tokens[:7]
    options: dict[str, Any] = {
        "first": {"begin_suppress_tokens": [token for token in tokens if token != tokens[0]]},
        "least": {"min_new_tokens": 6, "eos_token_id": tokens[7]},
        "decay": {"exponential_decay_length_penalty": (5, 8.0)},
    }[kind]
    params = GenerateParams(max_tokens=12, temperature=0, extra=options)
    scarce = Scarce(2, after=4)
    with reference.model.register_forward_pre_hook(scarce, with_kwargs=True):
        results = asyncio.run(borrowing.generate_texts([prompt] * 4, [params] * 4))

    expected = reference.new_tokens(prompt, max_new_tokens=12, **options)
    if expected[-1] == options.get("eos_token_id"):
        expected.pop()  # it ends the answer, and is no part of it
    assert [str(result) for result in results] == [reference.text(expected)] * 4
    assert scarce.passes > 4 + 12, "memory sufficed"


def test_a_seeded_row_goes_on_as_it_began_when_memory_runs_out_half_way(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps
) -> None:
    extra = {"min_new_tokens": 12, "repetition_penalty": 1.8}
    seeded = GenerateParams(max_tokens=12, temperature=1.0, seed=3, extra=extra).merge_with(
        GenerateParams(presence_penalty=-1.0, frequency_penalty=-2.0)
    )
    (alone,) = asyncio.run(borrowing.generate_texts(["two"], [seeded]))
    refused: list[int] = []
    passes = 0

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        nonlocal passes
        # Those of transformers: it is none of the rolling ones.
        passes += any(type(value) is DynamicCache for value in kwargs.values())
        if passes == 1 + 6 and not refused:
            refused.append(passes)
            raise out_of_memory()

    async def main() -> str:
        beside = asyncio.create_task(borrowing.generate_texts(["one"], [LONG]))
        await steps.reach(steps.count + 4)
        (result,) = await borrowing.generate_texts(["two"], [seeded])
        await beside
        return str(result)

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        said = asyncio.run(main())

    assert refused
    assert said == str(alone)


def test_a_row_that_does_not_fit_beside_others_waits_for_them(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps
) -> None:
    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        # Reading needs memory that is there only while nobody runs.
        if kwargs["input_ids"].shape[1] > 1 and 3 < steps.count < 20:
            raise out_of_memory()

    async def main() -> list[str]:
        long = GenerateParams(max_tokens=20, temperature=0)
        first = asyncio.create_task(borrowing.generate_texts(["one"], [long]))
        await steps.reach(4)
        second = await borrowing.generate_texts(["two"], [SHORT])
        return [str(result) for result in (*await first, *second)]

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        said = asyncio.run(main())

    assert said == [greedy(reference, "one", 20), greedy(reference, "two", 3)]


@pytest.mark.parametrize("kind", ["rolling", "halved"])
def test_those_who_wait_for_memory_run_out_of_time_in_time(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, kind: str
) -> None:
    """Rows put aside, and the half of a batch that is generated later."""

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        rows, tokens = kwargs["input_ids"].shape
        if rows > 1 or (kind == "rolling" and tokens > 1 and steps.count > 3):
            raise out_of_memory()

    def slow(count: int) -> None:
        time.sleep(0.02)

    steps.then = slow
    extra = {"remove_invalid_values": True}
    long = GenerateParams(max_tokens=100, temperature=0, extra=extra)
    hasty = GenerateParams(
        max_tokens=5, temperature=0, timeout=0.5, extra=extra if kind == "halved" else {}
    )

    async def main() -> list[Any]:
        first = asyncio.create_task(borrowing.generate_texts(["one"], [long]))
        # Either it comes later, or both come at once.
        await (steps.reach(4) if kind == "rolling" else asyncio.sleep(0))
        (second,) = await borrowing.generate_texts(["two"], [hasty])
        is_late = first.done()
        return [*await first, second, is_late]

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        one, two, is_late = asyncio.run(main())

    assert isinstance(two, ProviderTimeoutError)
    assert not is_late
    assert str(one) == greedy(reference, "one", 100)


@pytest.mark.parametrize("number", range(28))
def test_memory_that_runs_out_in_the_cache_changes_no_answer(
    borrowing: TransformersGenerator,
    reference: Reference,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    made = 0

    def zeros(*args: Any) -> torch.Tensor:
        nonlocal made
        made += 1
        if made == number + 1:
            raise out_of_memory()
        return _zeros(*args)

    monkeypatch.setattr("rigging_transformers._layers._zeros", zeros)
    # New buffers every other token.
    monkeypatch.setattr("rigging_transformers._cache._SPARE", 2)
    monkeypatch.setattr("rigging_transformers._cache._SHARE", 1_000_000)
    params = GenerateParams(max_tokens=14, temperature=0)
    prompts = ["The quick", "What is the capital of France?", "One", "red, green, blue and"]

    async def main() -> list[str]:
        first = asyncio.create_task(borrowing.generate_texts(prompts[:2], [params] * 2))
        await steps.reach(4)
        second = await borrowing.generate_texts(prompts[2:], [params] * 2)
        return [str(result) for result in (*await first, *second)]

    assert asyncio.run(main()) == [greedy(reference, prompt, 14) for prompt in prompts]
    assert made > number, "the fault did not happen"


@pytest.mark.parametrize("first", ["rolling", "other"])
def test_a_row_that_does_not_fit_beside_others_of_another_kind_waits_for_them(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps, first: str
) -> None:
    refused: list[int] = []

    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        # Reading needs memory that is there only while nobody runs.
        if kwargs["input_ids"].shape[1] > 1 and 3 < steps.count < 20:
            refused.append(steps.count)
            raise out_of_memory()

    long = GenerateParams(max_tokens=20, temperature=0)
    rolling, other = long, long.merge_with(GenerateParams(extra={"remove_invalid_values": True}))
    kinds = (rolling, other) if first == "rolling" else (other, rolling)

    async def main() -> list[str]:
        one = asyncio.create_task(borrowing.generate_texts(["one"], [kinds[0]]))
        await steps.reach(4)
        two = asyncio.create_task(borrowing.generate_texts(["two"], [kinds[1]]))
        await steps.reach(8)
        # Whoever comes while it waits is answered after it.
        three = asyncio.create_task(borrowing.generate_texts(["three"], [long]))
        return [str(result) for done in (one, two, three) for result in await done]

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        said = asyncio.run(main())

    assert said == [greedy(reference, prompt, 20) for prompt in ("one", "two", "three")]
    assert len(refused) == 1


def test_after_a_while_more_rows_are_tried_again(
    borrowing: TransformersGenerator, reference: Reference, widths: list[int]
) -> None:
    borrowing.max_batch_size = 4
    prompts = [f"number {n}" for n in range(12)]
    params = GenerateParams(max_tokens=60, temperature=0)
    scarce = Scarce(2)

    def refuse_once(*args: Any) -> None:
        try:
            scarce(*args)
        finally:
            scarce.rows = 4 if scarce.passes else 2

    with reference.model.register_forward_pre_hook(refuse_once, with_kwargs=True):
        results = asyncio.run(borrowing.generate_texts(prompts, [params] * 12))

    assert [str(result) for result in results] == [greedy(reference, p, 60) for p in prompts]
    after = widths[1:]
    assert max(after[:60]) == 2
    assert max(after) > 2


def test_one_row_that_does_not_fit_fails_alone(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    def refuse(_module: object, _args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].shape[1] > 50:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with reference.model.register_forward_pre_hook(refuse, with_kwargs=True):
        long, fine = asyncio.run(borrowing.generate_texts(["word " * 60, "word"], [SHORT] * 2))

    assert isinstance(fine, GeneratedText)
    assert isinstance(long, ProviderServerError)
    assert "out of memory with one prompt alone" in str(long)


def test_a_model_that_fails_fails_those_it_was_run_for(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    with reference.model.register_forward_pre_hook(fail):
        first, second = asyncio.run(borrowing.generate_texts(["one", "two"], [SHORT] * 2))
    (again,) = asyncio.run(borrowing.generate_texts(["one"], [SHORT]))

    assert isinstance(first, ProviderServerError)
    assert "the model failed: ValueError: broken" in str(first)
    assert first is not second
    assert isinstance(again, GeneratedText)


def test_a_model_whose_code_leaves_the_thread_fails_those_it_was_run_for(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    def leave(*_: Any) -> None:
        raise SystemExit(3)

    with reference.model.register_forward_pre_hook(leave):
        (failed,) = asyncio.run(borrowing.generate_texts(["one"], [SHORT]))
    (again,) = asyncio.run(borrowing.generate_texts(["one"], [SHORT]))

    assert isinstance(failed, ProviderServerError)
    assert "the engine failed: SystemExit: 3" in str(failed)
    assert str(again) == greedy(reference, "one", 3)


@pytest.fixture
def damaged(reference: Reference) -> TransformersGenerator:
    """A model that says NaN behind the letter X, and is the reference otherwise."""
    model = copy.deepcopy(reference.model)
    (letter,) = reference.tokenizer.encode("X")
    with torch.no_grad():
        model.get_input_embeddings().weight[letter] = torch.nan
    return TransformersGenerator.from_obj(model, reference.tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.9, "seed": 1},
        {"temperature": 1.0, "extra": {"eta_cutoff": 0.02}},
        {"temperature": 1.0, "extra": {"top_h": 0.5}},
        {"temperature": 0, "extra": {"min_new_tokens": 2}},
        {"temperature": 1.0, "extra": {"min_new_tokens": 2}},
    ],
    ids=["greedy", "sampled", "seeded", "eta", "top-h", "generate", "sampled-generate"],
)
def test_scores_that_are_no_numbers_fail_their_own_row(
    damaged: TransformersGenerator, reference: Reference, options: dict[str, Any]
) -> None:
    params = SHORT.merge_with(GenerateParams(**options))
    whole = SHORT.merge_with(GenerateParams(extra=options.get("extra", {})))

    bad, fine = asyncio.run(damaged.generate_texts(["one X", "one two"], [params, whole]))

    assert isinstance(bad, ProviderServerError)
    assert "not numbers (NaN) after 0 tokens" in str(bad)
    assert str(fine) == greedy(reference, "one two", 3)


def test_a_row_takes_the_place_of_one_whose_scores_were_no_numbers(
    damaged: TransformersGenerator, reference: Reference
) -> None:
    (letter,) = reference.tokenizer.encode("X")
    # It comes to the letter by itself, with its keys and values in the cache by then.
    prompt = next(
        prompt
        for prompt in (f"{first} {second}" for first in WORDS for second in WORDS)
        if letter in reference.new_tokens(prompt, max_new_tokens=20)[2:]
    )
    after = reference.new_tokens(prompt, max_new_tokens=20).index(letter) + 1
    steps = Steps()
    damaged._engine._borrowed.model.register_forward_hook(steps)  # type: ignore[union-attr]

    async def main() -> None:
        async def other(prompt: str) -> None:
            (result,) = await damaged.generate_texts([prompt], [LONG])
            assert str(result) == greedy(reference, prompt, 150)

        long = asyncio.create_task(other(" ".join(WORDS)))
        (bad,) = await damaged.generate_texts([prompt], [LONG])
        assert isinstance(bad, ProviderServerError)
        assert f"not numbers (NaN) after {after} tokens" in str(bad)
        await steps.reach(after + 5)
        await other("one")
        await long

    asyncio.run(main())


# -- What the rolling batch does not take ------------------------------------------------


def test_what_generate_runs_is_beside_the_rolling_batch(
    borrowing: TransformersGenerator, reference: Reference, steps: Steps
) -> None:
    beams = GenerateParams(max_tokens=40, temperature=0, extra={"num_beams": 2})
    order: list[str] = []

    async def main() -> None:
        async def beam() -> None:
            (result,) = await borrowing.generate_texts(["Hello"], [beams])
            expected = reference.new_tokens("Hello", max_new_tokens=40, num_beams=2)
            assert str(result) == reference.text(expected)
            order.append("beams")

        slow = asyncio.create_task(beam())
        await steps.reach(5)
        (result,) = await borrowing.generate_texts(["The quick"], [SHORT])
        order.append("short")
        assert str(result) == greedy(reference, "The quick", 3)
        await slow

    asyncio.run(main())

    assert order == ["short", "beams"]


def test_a_row_of_generates_ends_its_own_call_before_its_neighbours(
    borrowing: TransformersGenerator,
) -> None:
    async def ask(tokens: int, answered: list[int]) -> None:
        extra = {"remove_invalid_values": True}
        params = GenerateParams(max_tokens=tokens, temperature=0, extra=extra)
        await borrowing.generate_texts(["Hello"], [params])
        answered.append(tokens)

    async def main() -> list[int]:
        answered: list[int] = []
        await asyncio.gather(ask(60, answered), ask(2, answered))
        return answered

    assert asyncio.run(main()) == [2, 60]


@pytest.mark.parametrize(
    ("family", "rolls"),
    [
        ("gpt2", True),
        ("qwen2", True),
        ("gpt_neox", True),
        ("bloom", True),
        ("mistral", True),
        ("mamba", True),
        ("openai-gpt", False),
        ("roformer", False),
    ],
)
def test_models_of_all_kinds_say_what_they_say_alone(
    reference: Reference, family: str, rolls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rigging_transformers")
    model = make_small(family, reference.tokenizer)
    generator = TransformersGenerator.from_obj(model, reference.tokenizer)
    prompts = ["The quick brown fox", "One", "red, green, blue and", "What is it then?"]
    params = [GenerateParams(max_tokens=n, temperature=0) for n in (12, 3, 20, 12)]

    results = asyncio.run(generator.generate_texts(prompts, params))

    alone = type(reference)(model, reference.tokenizer)
    expected = [
        greedy(alone, p, own.max_tokens or 0) for p, own in zip(prompts, params, strict=True)
    ]
    assert [str(result) for result in results] == expected
    loaded = generator._engine._borrowed
    assert loaded is not None
    assert model_rolls(loaded) == rolls
    assert ("does not fit the rolling batch" in caplog.text) != rolls


def test_a_model_whose_code_calls_its_cache_by_the_older_name_rolls_too(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(reference.model)
    forward, name = model.forward, Loaded(model, reference.tokenizer, "tiny").cache_name

    def older(
        *, attention_mask: Any, position_ids: Any, past_key_values: Any, **others: Any
    ) -> object:
        own = {"attention_mask": attention_mask, "position_ids": position_ids}
        return forward(**own, **{name: past_key_values}, **others)

    monkeypatch.setattr(model, "forward", older)
    generator = TransformersGenerator.from_obj(model, reference.tokenizer)

    (result,) = asyncio.run(generator.generate_texts(["One"], [SHORT]))

    assert str(result) == greedy(reference, "One", 3)
    loaded = generator._engine._borrowed
    assert loaded is not None
    assert model_rolls(loaded)


@pytest.mark.parametrize(
    ("name", "value", "rolls"),
    [
        ("repetition_penalty", 1.5, True),
        ("no_repeat_ngram_size", 1, True),
        ("suppress_tokens", [65, 66, 67], False),
        ("cache_implementation", "hybrid", True),  # as Gemma's says, for another version
    ],
)
def test_what_the_models_own_config_asks_for_is_done(
    borrowing: TransformersGenerator,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    rolls: bool,
) -> None:
    monkeypatch.setattr(reference.model.generation_config, name, value)
    assert borrowing._engine._borrowed is not None
    assert model_rolls(borrowing._engine._borrowed) == rolls

    params = GenerateParams(max_tokens=12, temperature=0)
    (result,) = asyncio.run(borrowing.generate_texts(["The quick"], [params]))

    assert str(result) == greedy(reference, "The quick", 12)


@pytest.mark.parametrize("extra", [{}, {"remove_invalid_values": True}], ids=["rolling", "others"])
@pytest.mark.parametrize("stops", ["e", ["zzzz", "e"]], ids=str)
def test_stop_texts_of_the_models_own_config_end_each_row(
    borrowing: TransformersGenerator,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    stops: str | list[str],
    extra: dict[str, Any],
) -> None:
    prompts = ["The quick", "One", "red, green, blue and", "What is it then?"]
    expected = [cut_at_stop(greedy(reference, prompt, 30), ["e", "q"]) for prompt in prompts]
    monkeypatch.setattr(reference.model.generation_config, "stop_strings", stops)
    params = GenerateParams(max_tokens=30, temperature=0, stop=["q"], extra=extra)

    results = asyncio.run(borrowing.generate_texts(prompts, [params] * 4))

    assert [str(result) for result in results] == expected
    assert "stop" in [getattr(result, "stop_reason", None) for result in results]
    assert borrowing._engine._borrowed is not None
    assert model_rolls(borrowing._engine._borrowed)


def test_a_model_that_gives_up_early_answers_with_what_it_has(
    borrowing: TransformersGenerator, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference.model.generation_config, "max_time", 1e-6)

    results = asyncio.run(borrowing.generate_texts(["One", "What is it"], [LONG] * 2))

    for result in results:
        assert isinstance(result, GeneratedText)
        assert result.stop_reason == "length"
        assert result.usage is not None
        assert result.usage.output_tokens == 1
