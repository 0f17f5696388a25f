"""Results: usage adds up, stop reasons are understood however they are spelt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
