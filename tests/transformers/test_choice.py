"""The choice of tokens: what a mixed batch gives is what each of its rows gives alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rigging_transformers._choice import Choice
from rigging_transformers._filters import Filters, kind
from rigging_transformers._row import NO_TOKEN, Row
from rigging_transformers._sampling import Plan, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VOCABULARY = 40
STEPS = 5

# In the order in which transformers applies them.
FILTERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
    "temperature": (st.floats(0.05, 3), transformers.TemperatureLogitsWarper),
    # At 1, where ours keeps all, transformers' rounding decides on the last few.
    "top_h": (st.floats(0.1, 0.99), transformers.TopHLogitsWarper),
    "top_k": (st.integers(1, 50) | st.just(2**70), transformers.TopKLogitsWarper),
    "top_p": (st.floats(0, 1), transformers.TopPLogitsWarper),
    "min_p": (st.floats(0, 1), transformers.MinPLogitsWarper),
    "typical_p": (st.sampled_from([0.2, 0.9]), transformers.TypicalLogitsWarper),
    "epsilon_cutoff": (st.sampled_from([0.01, 0.2]), transformers.EpsilonLogitsWarper),
    "eta_cutoff": (st.sampled_from([0.01, 0.2]), transformers.EtaLogitsWarper),
}


# Few, so that rows of one batch often have the same.
SETS: list[tuple[str, ...]] = [
    (),
    ("temperature", "top_k"),
    ("temperature", "top_k", "top_p"),
    ("top_p", "min_p"),
    ("top_h", "top_k", "typical_p"),
    ("min_p", "epsilon_cutoff", "eta_cutoff"),
]


@st.composite
def filters(draw: st.DrawFn) -> tuple[tuple[str, Any], ...]:
    return tuple((name, draw(FILTERS[name][0])) for name in draw(st.sampled_from(SETS)))


PENALTIES = st.sampled_from([0.0, 0.3, -0.7])
SAMPLINGS = st.builds(
    Sampling,
    sampled=st.booleans(),
    filters=filters(),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 1, 2, 3]),
    presence_penalty=PENALTIES,
    frequency_penalty=PENALTIES,
    seed=st.none() | st.integers(0, 9),
)
PROMPTS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12)
MIXED = st.lists(st.tuples(PROMPTS, SAMPLINGS), min_size=1, max_size=6)


def scores_of(rows: int, seed: int) -> torch.Tensor:
    """Scores with equal ones among them, and some that rule a token out."""
    numbers = torch.Generator().manual_seed(seed)
    scores = (torch.randn(rows, VOCABULARY, generator=numbers) * 12).round() / 4
    return scores.masked_fill(scores < -5, -torch.inf)


def test_n_grams_longer_than_any_row_ban_nothing() -> None:
    rows = [row_of([1, 2], Sampling(no_repeat_ngram_size=10**30)), row_of([1, 2], Sampling())]
    scores = torch.tensor([[0.0, 1.0, 2.0]] * 2)

    assert Choice(rows, scores)(scores).tolist() == [2, 2]


def row_of(prompt: Sequence[int], sampling: Sampling) -> Row:
    return Row(prompt, Plan(sampling, {}), 100, (), (), None, lambda _, __: "")


def penalized(row: Row, scores: torch.Tensor) -> torch.Tensor:
    """What transformers' processors make of one row's scores, and then our own penalties."""
    sampling, tokens = row.plan.sampling, torch.tensor([[*row.prompt, *row.tokens]])
    scores = scores.clone()
    if sampling.repetition_penalty != 1:
        repetition = transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        scores = repetition(tokens, scores)
    if sampling.no_repeat_ngram_size:
        n_grams = transformers.NoRepeatNGramLogitsProcessor(sampling.no_repeat_ngram_size)
        scores = n_grams(tokens, scores)
    for token in set(row.tokens):
        count = torch.tensor(row.tokens.count(token))
        scores[:, token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    return scores


def same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


# The first example imports half of transformers.
@settings(deadline=None, max_examples=50)
@given(own=st.lists(filters(), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_rows_filtered_together_keep_what_transformers_keeps_of_each(
    own: list[tuple[tuple[str, Any], ...]], seed: int
) -> None:
    scores = scores_of(len(own), seed)
    samplings = [Sampling(True, each) for each in own]

    for each in {kind(sampling) for sampling in samplings}:
        indices = [index for index, one in enumerate(samplings) if kind(one) == each]
        together = Filters([samplings[index] for index in indices], scores)(scores[indices])
        for index, found in zip(indices, together, strict=True):
            expected = scores[index : index + 1]
            for name, value in own[index]:
                expected = FILTERS[name][1](value)(None, expected)
            same(found, expected[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_h", 1e-4),
        ("top_k", 1),
        ("top_p", 0.0),
        ("min_p", 1.0),
        ("typical_p", 1e-4),
        ("epsilon_cutoff", 0.999),
        ("eta_cutoff", 1 - 1e-9),
    ],
)
def test_the_strictest_value_leaves_what_transformers_leaves(name: str, value: float) -> None:
    # Also the first token, the first two equally likely, and so on.
    first = torch.ones(VOCABULARY, VOCABULARY).tril().log()
    scores = torch.cat([scores_of(4, seed=0), first])

    found = Filters([Sampling(True, ((name, value),))] * len(scores), scores)(scores)

    same(found, FILTERS[name][1](value)(None, scores))
    assert found.isfinite().any(dim=1).all()


@settings(deadline=None, max_examples=50)
@given(mixed=MIXED, seed=st.integers(0, 99))
def test_each_row_of_a_mixed_batch_gets_the_tokens_that_it_gets_alone(
    mixed: list[tuple[list[int], Sampling]], seed: int
) -> None:
    together, alone, anew = ([row_of(*each) for each in mixed] for _ in range(3))
    certain = [i for i, (_, own) in enumerate(mixed) if not own.sampled or own.seed is not None]
    scores = scores_of(len(mixed), seed)
    choice = Choice(together, scores)
    choices = [Choice([row], scores) for row in alone]

    for step in range(STEPS):
        scores = scores_of(len(mixed), seed + step)
        expected = [penalized(row, scores[[i]]) for i, row in enumerate(together)]
        changed = scores.clone()
        chosen = choice(changed).tolist()
        same(changed, torch.cat(expected))
        by_themselves = [own(scores[[i]]).item() for i, own in enumerate(choices)]
        # As if another row had left before each step.
        again = Choice(anew, scores)(scores.clone()).tolist()
        for i in certain:
            assert chosen[i] == by_themselves[i] == again[i]
        for rows, said in ((together, chosen), (alone, by_themselves), (anew, again)):
            for row, token in zip(rows, said, strict=True):
                row.add(token, now=0.0)


def test_a_token_that_has_no_score_is_passed_over() -> None:
    sampling = Sampling(repetition_penalty=1.5, no_repeat_ngram_size=1)
    scores = scores_of(2, seed=0)
    # Some models have more embeddings than scores.
    with_it, without = scores.clone(), scores.clone()

    Choice([row_of([3, VOCABULARY + 2], sampling), row_of([5], sampling)], scores)(with_it)
    Choice([row_of([3], sampling), row_of([5], sampling)], scores)(without)

    same(with_it, without)


def test_a_row_without_numbers_disturbs_none_of_its_neighbours() -> None:
    sampling = Sampling(repetition_penalty=1.5, presence_penalty=1.0, no_repeat_ngram_size=2)
    rows = [row_of([1, 2], sampling) for _ in range(2)]
    scores = scores_of(2, seed=0)
    broken = scores.clone()
    broken[0] = torch.nan
    choice, whole = Choice(rows, scores), Choice(rows[1:], scores)

    for _ in range(3):
        bad, fine = choice(broken.clone()).tolist()
        assert bad == NO_TOKEN
        assert [fine] == whole(scores[1:].clone()).tolist()
        rows[1].add(fine, now=0.0)


def without_numbers() -> dict[str, torch.Tensor]:
    """Scores of which none can be drawn."""
    plain = scores_of(1, seed=0)[0]
    one = torch.arange(VOCABULARY) == 3
    return {
        "nan": plain.masked_fill(one, torch.nan),
        "infinity": plain.masked_fill(one, torch.inf),
        "none-left": torch.full_like(plain, -torch.inf),
    }


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("broken", without_numbers().values(), ids=without_numbers())
def test_scores_that_cannot_be_drawn_from_fail_their_own_row_whatever_filters_it(
    name: str, broken: torch.Tensor
) -> None:
    sampling = Sampling(True, ((name, 2 if name == "top_k" else 0.5),), seed=1)
    fine = scores_of(2, seed=1)[1:]
    scores = torch.cat([broken[None], fine])

    chosen = Choice([row_of([1], sampling), row_of([1], sampling)], scores)(scores)

    alone = Choice([row_of([1], sampling)], fine)(fine)
    assert chosen.tolist() == [NO_TOKEN, *alone.tolist()]


def test_a_step_waits_for_nothing_that_the_device_has_to_say() -> None:
    waited: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            # A value for Python, and a tensor whose size depends on values.
            if func._schema.name in {"aten::_local_scalar_dense", "aten::nonzero"}:
                waited.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    values = {name: 2 if name == "top_k" else 0.5 for name in FILTERS}
    rows = [
        row_of([1, 2], Sampling(True, (each,), 1.5, 2, 1.0, 1.0, seed=1)) for each in values.items()
    ]
    choice = Choice(rows, scores_of(len(rows), seed=0))

    with Watch():
        for step in range(2):
            choice(scores_of(len(rows), seed=step))

    assert waited == []


FEW = st.lists(st.integers(0, 2), min_size=1, max_size=12)


# When it joins, its prompt, the tokens that it takes, and the size of its n-grams.
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), FEW, FEW, st.integers(1, 4)), min_size=1, max_size=4))
def test_n_grams_are_banned_as_transformers_bans_them_whoever_joins_and_leaves(
    planned: list[tuple[int, list[int], list[int], int]],
) -> None:
    rows = [row_of(prompt, Sampling(no_repeat_ngram_size=size)) for _, prompt, _, size in planned]
    before: list[int] = []

    for step in range(max(start + len(taken) for start, _, taken, _ in planned)):
        here = [n for n, (at, _, taken, _) in enumerate(planned) if at <= step < at + len(taken)]
        if here != before:
            choice = Choice([rows[n] for n in here], scores_of(len(here), seed=0))
            before = here
        if not here:
            continue
        scores = scores_of(len(here), seed=step)
        expected = [penalized(rows[n], scores[[i]]) for i, n in enumerate(here)]
        choice(scores)
        same(scores, torch.cat(expected))
        for n in here:
            start, _, taken, _ = planned[n]
            rows[n].add(taken[step - start], now=0.0)


def test_a_prompt_is_searched_for_n_grams_once() -> None:
    class Prompt(list[int]):
        read = 0

        def __iter__(self) -> Iterator[int]:
            self.read += 1
            return super().__iter__()

    prompt = Prompt([1, 2, 3, 1, 2])
    row = row_of(prompt, Sampling(no_repeat_ngram_size=3))
    choice = Choice([row], scores_of(1, seed=0))

    for step in range(STEPS):
        row.add(choice(scores_of(1, seed=step)).item(), now=0.0)

    assert prompt.read == 1


def test_shares_are_rounded_as_transformers_rounds_them() -> None:
    # All tokens are equally likely, so each of these shares ends exactly at one.
    shares = [count / VOCABULARY for count in range(1, VOCABULARY)]
    scores = torch.zeros(len(shares), VOCABULARY)

    found = Filters([Sampling(True, (("top_p", share),)) for share in shares], scores)(scores)

    for row, share in zip(found, shares, strict=True):
        same(row, transformers.TopPLogitsWarper(share)(None, scores[:1])[0])


@pytest.mark.parametrize("name", ["temperature", "top_h", "top_k", "top_p", "min_p", "eta_cutoff"])
def test_a_filter_with_values_of_their_own_is_one_for_all_rows(name: str) -> None:
    values = [1, 2] if name == "top_k" else [0.5, 0.6]

    assert len({kind(Sampling(True, ((name, value),))) for value in values}) == 1
