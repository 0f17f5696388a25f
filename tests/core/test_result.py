"""Results: usage adds up, stop reasons are understood however they are spelt."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import rigging as rg

COUNTS = st.integers(0, 10**9)
USAGES = st.builds(
    rg.Usage,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    total_tokens=st.none() | COUNTS,
    cached_tokens=COUNTS,
)


@given(USAGES, USAGES, USAGES)
def test_usages_add_up_in_any_grouping(a: rg.Usage, b: rg.Usage, c: rg.Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert (a + b).model_extra == {"cached_tokens": a.cached_tokens + b.cached_tokens}  # type: ignore[attr-defined]


def test_total_is_the_sum_unless_told_otherwise() -> None:
    assert rg.Usage(input_tokens=3, output_tokens=4).total_tokens == 7
    assert rg.Usage(input_tokens=3, output_tokens=4, total_tokens=9).total_tokens == 9


def test_whatever_else_a_backend_reports_is_kept_and_added() -> None:
    one = rg.Usage.model_validate({"input_tokens": 1, "details": {"cached": 1, "tier": "a"}})
    two = rg.Usage.model_validate({"cost": 0.5, "details": {"cached": 2, "tier": "b"}, "x": None})

    assert (one + two).model_extra == {
        "details": {"cached": 3, "tier": "b"},
        "cost": 0.5,
        "x": None,
    }


def test_usage_adds_to_usages_only() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        rg.Usage() + 3  # type: ignore[operator]


@pytest.mark.parametrize(
    ("spelling", "reason"),
    [
        ("stop", "stop"),
        ("END_TURN", "stop"),
        ("eos_token", "stop"),
        ("max_tokens", "length"),
        ("safety", "content_filter"),
        ("tool_use", "tool_calls"),
        ("whatever", "unknown"),
        (None, "unknown"),
        (3, "unknown"),
    ],
)
def test_stop_reason_is_understood(spelling: object, reason: str) -> None:
    assert rg.StopReason(spelling) == reason


def test_results_are_made_of_text() -> None:
    message = rg.GeneratedMessage.from_text("Hi", "end_turn", usage=rg.Usage(input_tokens=1))
    text = rg.GeneratedText.from_text("Hi", "length", extra={"id": "x"})

    assert (message.message.role, str(message), message.stop_reason) == ("assistant", "Hi", "stop")
    assert (text.text, str(text), text.stop_reason) == ("Hi", "Hi", "length")
    assert rg.GeneratedMessage.model_validate_json(message.model_dump_json()) == message
    assert rg.GeneratedText.model_validate_json(text.model_dump_json()) == text


def same(one: Any, other: Any) -> bool:
    """Tell whether two models are the same, in what pydantic keeps beside the fields, too."""
    parts = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
    return type(one) is type(other) and all(
        getattr(one, part) == getattr(other, part) for part in parts
    )


REPORTED = st.dictionaries(st.sampled_from(["cached_tokens", "total_tokens", "cost"]), COUNTS)


@given(COUNTS | st.booleans() | st.just("3") | st.just(3.0), COUNTS, REPORTED)
def test_usage_of_counts_is_what_the_constructor_makes(read: Any, written: int, more: Any) -> None:
    made = rg.Usage.of(read, written, **more)

    assert same(made, rg.Usage(input_tokens=read, output_tokens=written, **more))
    assert rg.Usage.model_validate_json(made.model_dump_json()) == made


def test_usage_of_counts_refuses_what_the_constructor_refuses() -> None:
    with pytest.raises(ValidationError, match="output_tokens"):
        rg.Usage.of(1, "many")  # type: ignore[arg-type]


class Scored(rg.GeneratedText):
    score: float


REASONS: st.SearchStrategy[Any] = st.sampled_from(
    [*rg.StopReason, "stop", "length", "end_turn", "END_TURN", "whatever", None, 3, ["stop"]]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "usage": st.none() | USAGES | st.just({"input_tokens": 3}),
        "extra": st.just({}) | st.just({"id": "x"}),
        "unheard_of": st.just(1),
    },
)


@given(st.text(), REASONS, FIELDS)
def test_a_result_of_its_text_is_what_the_constructor_makes(
    text: str, reason: Any, fields: dict[str, Any]
) -> None:
    made = rg.GeneratedText.from_text(text, reason, **fields)

    assert same(made, rg.GeneratedText(text=text, stop_reason=reason, **fields))
    assert rg.GeneratedText.model_validate_json(made.model_dump_json()) == made
    # What the caller has is not what the result has.
    assert made.extra is not fields.get("extra")
    assert type(Scored.from_text(text, reason, score=1.0, **fields)) is Scored


@pytest.mark.parametrize("fields", [{"text": 3}, {"usage": 3}, {"extra": [1]}, {"extra": {1: 2}}])
def test_a_result_of_its_text_refuses_what_the_constructor_refuses(fields: Any) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        rg.GeneratedText.from_text(**{"text": "Hi", **fields})
