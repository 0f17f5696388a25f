from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import torch

import rigging as rg
from rigging import GeneratedText, GenerateParams, Message, StopReason

if TYPE_CHECKING:
    from rigging_transformers import TransformersGenerator
    from tests.transformers.conftest import Reference

PROMPTS = ["The quick", "What is the capital of France?", "One", "red, green, blue and"]
GREEDY = GenerateParams(temperature=0, max_tokens=12)


def complete(
    generator: TransformersGenerator, prompts: list[str], *params: GenerateParams
) -> list[GeneratedText]:
    """Continue texts, all at once; params are repeated if there is only one."""
    each = params if len(params) == len(prompts) else params * len(prompts)
    results = asyncio.run(generator.generate_texts(prompts, each))
    for result in results:
        assert isinstance(result, GeneratedText), result
    return list(results)  # type: ignore[arg-type]


def texts(results: list[GeneratedText]) -> list[str]:
    return [result.text for result in results]


def test_a_greedy_batch_equals_single_calls_of_generate(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    batch = complete(borrowing, PROMPTS, GREEDY)

    alone = [reference.text(reference.new_tokens(p, max_new_tokens=12)) for p in PROMPTS]
    assert texts(batch) == alone
    assert len(set(alone)) == len(PROMPTS), "the prompts do not tell the model apart"


def test_chats_are_laid_out_by_the_models_template(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    conversation = [Message("system", "Be brief."), Message("user", "Hello  there\n")]

    (result,) = asyncio.run(borrowing.generate_messages([conversation], [GREEDY]))

    laid_out = (
        "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHello  there\n<|end|>\n"
        "<|start|>assistant\n"
    )
    assert isinstance(result, rg.GeneratedMessage)
    assert result.message.role == "assistant"
    assert result.message.content == reference.text(
        reference.new_tokens(laid_out, max_new_tokens=12)
    )


def test_the_pipelines_run_it(borrowing: TransformersGenerator) -> None:
    chats = asyncio.run(borrowing.chat("Hello").with_(GREEDY).run_many(3))
    completion = asyncio.run(borrowing.complete("Hello").with_(GREEDY).run())

    assert len({chat.last.text for chat in chats}) == 1
    assert chats.usage.output_tokens == 36
    assert completion.usage is not None
    assert completion.usage.output_tokens == 12


def test_rows_of_one_batch_have_their_own_parameters(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    prompts = [PROMPTS[1]] * 4
    short, long, random, penalized = complete(
        borrowing,
        prompts,
        GREEDY.merge_with(GenerateParams(max_tokens=3)),
        GREEDY,
        GenerateParams(temperature=1.5, max_tokens=12),
        GREEDY.merge_with(GenerateParams(frequency_penalty=100.0)),
    )

    expected = reference.new_tokens(PROMPTS[1], max_new_tokens=12)
    assert short.text == reference.text(expected[:3])
    assert long.text == reference.text(expected)
    assert random.text != long.text
    assert penalized.text != long.text


def test_what_the_generator_holds_is_overridden_by_the_call(
    borrowing: TransformersGenerator,
) -> None:
    borrowing.params = GenerateParams(temperature=0, max_tokens=7)

    own, given = complete(borrowing, PROMPTS[:2], GenerateParams(), GenerateParams(max_tokens=2))

    assert [result.usage and result.usage.output_tokens for result in (own, given)] == [7, 2]


def test_usage_counts_what_the_tokenizer_counts(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    for prompt, result in zip(PROMPTS, complete(borrowing, PROMPTS, GREEDY), strict=True):
        assert result.usage is not None
        assert result.usage.input_tokens == len(reference.tokenizer(prompt)["input_ids"])
        assert result.usage.output_tokens == 12
        assert result.usage.total_tokens == result.usage.input_tokens + 12


def test_text_is_exactly_as_decoded(borrowing: TransformersGenerator, reference: Reference) -> None:
    starting_with_a_blank = texts(complete(borrowing, PROMPTS, GREEDY))[0]

    assert starting_with_a_blank.startswith(" ")
    assert starting_with_a_blank == reference.text(
        reference.new_tokens(PROMPTS[0], max_new_tokens=12)
    )


# -- Where it ends -----------------------------------------------------------------------


def test_it_ends_at_max_tokens(borrowing: TransformersGenerator) -> None:
    (result,) = complete(borrowing, PROMPTS[:1], GREEDY)

    assert result.stop_reason is StopReason.length


def test_it_ends_at_the_end_token_which_is_counted_but_not_shown(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    tokens = reference.new_tokens(PROMPTS[1], max_new_tokens=12)
    third = GenerateParams(extra={"eos_token_id": tokens[2]})
    assert tokens[2] not in tokens[:2]

    ended, other = complete(borrowing, [PROMPTS[1]] * 2, GREEDY.merge_with(third), GREEDY)

    assert ended.stop_reason is StopReason.stop
    assert ended.text == reference.text(tokens[:2])
    assert ended.usage is not None
    assert ended.usage.output_tokens == 3
    assert other.text == reference.text(tokens)


def test_it_ends_before_a_stop_text(borrowing: TransformersGenerator, reference: Reference) -> None:
    tokens = reference.new_tokens(PROMPTS[0], max_new_tokens=12)
    whole = reference.text(tokens)
    stop = whole[3:6]  # no token's own text

    params = GREEDY.merge_with(GenerateParams(stop=["never said", stop]))
    stopped, other = complete(borrowing, [PROMPTS[0], PROMPTS[1]], params, GREEDY)

    assert stopped.stop_reason is StopReason.stop
    assert stopped.text == whole[: whole.index(stop)]
    assert stopped.usage is not None
    assert stopped.usage.output_tokens < 12
    assert other.stop_reason is StopReason.length


def test_a_special_token_may_be_a_stop_text(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    params = GREEDY.merge_with(GenerateParams(stop=["<|start|>"], extra={"forced_eos_token_id": 1}))

    (result,) = complete(borrowing, PROMPTS[:1], params)

    assert reference.tokenizer.convert_ids_to_tokens(1) == "<|start|>"
    assert result.stop_reason is StopReason.stop


def test_an_answer_is_bounded_by_the_context(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    length = len(reference.tokenizer(PROMPTS[0])["input_ids"])

    asked, default = complete(
        borrowing,
        [PROMPTS[0]] * 2,
        GenerateParams(temperature=0, max_tokens=10_000),
        GenerateParams(temperature=0),
    )

    assert asked.usage is not None
    assert default.usage is not None
    assert asked.usage.output_tokens == default.usage.output_tokens == 256 - length
    assert asked.stop_reason is StopReason.length


def test_the_models_own_default_length_holds(
    borrowing: TransformersGenerator, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference.model.generation_config, "max_new_tokens", 9)

    (result,) = complete(borrowing, PROMPTS[:1], GenerateParams(temperature=0))

    assert result.usage is not None
    assert result.usage.output_tokens == 9


# -- Random numbers ----------------------------------------------------------------------

SEEDED = GenerateParams(temperature=1.0, top_p=0.9, seed=7, max_tokens=12)


def test_a_seed_repeats_whatever_else_is_in_the_batch(borrowing: TransformersGenerator) -> None:
    unseeded = GenerateParams(temperature=1.0, max_tokens=12)
    (alone,) = complete(borrowing, PROMPTS[:1], SEEDED)
    among = complete(borrowing, [PROMPTS[1], PROMPTS[0], PROMPTS[0]], unseeded, SEEDED, SEEDED)
    (other,) = complete(borrowing, PROMPTS[:1], SEEDED.merge_with(GenerateParams(seed=8)))

    assert [among[1].text, among[2].text] == [alone.text] * 2
    assert other.text != alone.text


def test_a_seed_leaves_the_processs_random_numbers_alone(
    borrowing: TransformersGenerator,
) -> None:
    before = torch.get_rng_state()

    complete(borrowing, PROMPTS[:1], SEEDED)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("params", "options"),
    [
        pytest.param({"temperature": 0.7}, {"temperature": 0.7}, id="temperature"),
        pytest.param({"top_p": 0.4}, {"top_p": 0.4}, id="top_p"),
        pytest.param({"top_k": 5}, {"top_k": 5}, id="top_k"),
        pytest.param({"temperature": 2.0, "top_k": 0}, {"temperature": 2.0, "top_k": 0}, id="all"),
        pytest.param({"temperature": 2.0, "top_k": -1}, {"temperature": 2.0, "top_k": 0}, id="-1"),
        pytest.param({"extra": {"do_sample": True, "min_p": 0.2}}, {"min_p": 0.2}, id="min_p"),
        pytest.param(
            {"temperature": 1.5, "extra": {"typical_p": 0.5, "repetition_penalty": 1.4}},
            {"temperature": 1.5, "typical_p": 0.5, "repetition_penalty": 1.4},
            id="typical-p-after-a-penalty",
        ),
        pytest.param(
            {"temperature": 1.5, "extra": {"epsilon_cutoff": 0.02, "eta_cutoff": 0.1}},
            {"temperature": 1.5, "epsilon_cutoff": 0.02, "eta_cutoff": 0.1},
            id="cutoffs",
        ),
        pytest.param(
            {"temperature": 1.5, "extra": {"top_h": 0.5}},
            {"temperature": 1.5, "top_h": 0.5},
            id="top_h",
        ),
    ],
)
def test_a_seeded_draw_is_the_one_of_generate(
    borrowing: TransformersGenerator,
    reference: Reference,
    params: dict[str, Any],
    options: dict[str, Any],
) -> None:
    (ours,) = complete(borrowing, PROMPTS[:1], GenerateParams(seed=3, max_tokens=12, **params))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = reference.new_tokens(PROMPTS[0], max_new_tokens=12, do_sample=True, **options)
    assert ours.text == reference.text(theirs)


def test_without_a_seed_the_processs_random_numbers_decide(
    borrowing: TransformersGenerator,
) -> None:
    params = GenerateParams(temperature=1.0, max_tokens=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = texts(complete(borrowing, PROMPTS, params))
        second = texts(complete(borrowing, PROMPTS, params))
        torch.manual_seed(5)
        again = texts(complete(borrowing, PROMPTS, params))

    assert first == again
    assert first != second


def test_a_tiny_temperature_is_greedy(borrowing: TransformersGenerator) -> None:
    cold, greedy = complete(
        borrowing, [PROMPTS[0]] * 2, GenerateParams(temperature=1e-30, max_tokens=12), GREEDY
    )

    assert cold.text == greedy.text


# -- Penalties and extras ----------------------------------------------------------------


@pytest.mark.parametrize("penalty", [{"presence_penalty": 1e4}, {"frequency_penalty": 1e4}])
def test_a_penalty_makes_room_for_other_tokens(
    borrowing: TransformersGenerator, reference: Reference, penalty: dict[str, float]
) -> None:
    prompt = PROMPTS[0]
    free = reference.new_tokens(prompt, max_new_tokens=12)
    twice = next(i for i, token in enumerate(free) if token in free[:i])

    (result,) = complete(borrowing, [prompt], GREEDY.merge_with(GenerateParams(**penalty)))

    # The same as far as nothing is repeated, then something else.
    assert result.text.startswith(reference.text(free[: twice - 1]))
    assert result.text != reference.text(free)


def test_a_frequency_penalty_grows_with_each_occurrence(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    # Nothing is likelier than this one token, until it has been said often enough.
    bias = {"sequence_bias": [[[65], 100.0]]}
    once, often = (
        complete(borrowing, PROMPTS[:1], GREEDY.merge_with(GenerateParams(extra=bias, **penalty)))[
            0
        ].text
        for penalty in ({"presence_penalty": 20.0}, {"frequency_penalty": 20.0})
    )

    said = reference.text([65])
    assert once == said * 12
    assert often.startswith(said * 3)
    assert often != once


def test_extras_go_to_generate(borrowing: TransformersGenerator, reference: Reference) -> None:
    extra = GenerateParams(extra={"repetition_penalty": 1.8, "no_repeat_ngram_size": 2})

    penalized, plain = complete(borrowing, [PROMPTS[0]] * 2, GREEDY.merge_with(extra), GREEDY)

    expected = reference.new_tokens(
        PROMPTS[0], max_new_tokens=12, repetition_penalty=1.8, no_repeat_ngram_size=2
    )
    assert penalized.text == reference.text(expected)
    assert plain.text == reference.text(reference.new_tokens(PROMPTS[0], max_new_tokens=12))


def test_beam_search_is_left_to_transformers(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    beams = GREEDY.merge_with(GenerateParams(extra={"num_beams": 4}))

    found, plain = complete(borrowing, [PROMPTS[3]] * 2, beams, GREEDY)

    expected = reference.text(reference.new_tokens(PROMPTS[3], max_new_tokens=12, num_beams=4))
    assert found.text == expected
    assert found.stop_reason is StopReason.length
    assert plain.text != expected


def test_assisted_decoding_keeps_to_stop_texts(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    whole = reference.text(reference.new_tokens(PROMPTS[0], max_new_tokens=12))
    params = GREEDY.merge_with(
        GenerateParams(stop=whole[3:6], extra={"prompt_lookup_num_tokens": 2})
    )

    (result,) = complete(borrowing, PROMPTS[:1], params)

    assert result.text == whole[: whole.index(whole[3:6])]
    assert result.stop_reason is StopReason.stop


def test_the_models_generation_config_decides_where_nothing_is_given(
    borrowing: TransformersGenerator, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference.model.generation_config, "do_sample", True)
    monkeypatch.setattr(reference.model.generation_config, "temperature", 3.0)
    before = reference.model.generation_config.to_dict()

    (sampled,) = complete(borrowing, PROMPTS[:1], GenerateParams(max_tokens=12, seed=1))
    (greedy,) = complete(borrowing, PROMPTS[:1], GREEDY)

    assert greedy.text == reference.text(reference.new_tokens(PROMPTS[0], max_new_tokens=12))
    assert sampled.text != greedy.text
    assert reference.model.generation_config.to_dict() == before
