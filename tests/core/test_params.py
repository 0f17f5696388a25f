"""Generation parameters: merging, dumping, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rigging as rg
from rigging.error import InvalidParamsError
from tests.core.test_identifier import PARAMS


@given(PARAMS, st.lists(PARAMS, max_size=3))
def test_merging_lets_the_later_win_field_by_field(
    first: rg.GenerateParams, others: list[rg.GenerateParams]
) -> None:
    before = copy.deepcopy((first, others))

    merged = first.merge_with(*others)

    for name in rg.GenerateParams.model_fields.keys() - {"extra"}:
        values = [getattr(params, name) for params in (first, *others)]
        wanted = next((value for value in reversed(values) if value is not None), None)
        assert getattr(merged, name) == wanted
    assert merged.extra == {k: v for p in (first, *others) for k, v in p.extra.items()}
    assert (first, others) == before
    assert all(merged is not params for params in (first, *others))


def test_merging_with_nothing_is_still_a_new_object() -> None:
    params = rg.GenerateParams(temperature=1, extra={"a": 1})

    for merged in (params.merge_with(), params.merge_with(None)):
        assert merged == params
        assert merged is not params
        assert merged.extra is not params.extra


def test_what_was_put_into_extra_later_is_merged_too() -> None:
    later = rg.GenerateParams()
    later.extra["a"] = 1

    assert rg.GenerateParams(extra={"b": 2}).merge_with(later).extra == {"a": 1, "b": 2}
    assert later.merge_with(rg.GenerateParams(extra={"b": 2})).extra == {"a": 1, "b": 2}


@given(PARAMS)
def test_dict_holds_what_is_set_with_extra_beside_it(params: rg.GenerateParams) -> None:
    dumped = params.to_dict()

    assert None not in [v for k, v in dumped.items() if k not in params.extra]
    assert "extra" not in dumped or "extra" in params.extra
    assert dumped.items() >= params.extra.items() if _hashable(params.extra) else True
    set_ = {k: v for k, v in dumped.items() if k not in params.extra}
    assert rg.GenerateParams(**set_, extra=params.extra) == params


def test_what_is_given_stays_the_callers() -> None:
    extra = {"user": "bob"}
    params = rg.GenerateParams(extra=extra)
    extra["user"] = "eve"

    assert params.extra == {"user": "bob"}


def test_what_comes_out_of_params_changes_nothing_in_them() -> None:
    params = rg.GenerateParams(stop=["a"], extra={"nested": {"b": 1}})
    chat = rg.testing.EchoGenerator(model="x").chat("Hi", params).run_sync()

    for other in (params.merge_with(), chat.params, params.merge_with(params)):
        (other.stop or []).append("changed")
    params.to_dict()["stop"].append("changed")
    params.merge_with().extra["b"] = 2

    assert params == rg.GenerateParams(stop=["a"], extra={"nested": {"b": 1}})


def test_one_stop_text_is_a_list_of_one() -> None:
    assert rg.GenerateParams(stop="END").stop == ["END"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"temprature": 1}, "unknown field 'temprature'; did you mean 'temperature'"),
        ({"zzz": 1}, r"unknown field 'zzz'; \(fields: temperature, max_tokens"),
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"temperature": -1}, "greater than or equal to 0, got -1"),
        ({"temperature": float("nan")}, "a finite number|greater than or equal to 0"),
        ({"top_p": 2}, "less than or equal to 1"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens: expected an integer, got 1.5"),
        ({"timeout": 0}, "greater than 0"),
        ({"stop": [1]}, r"stop\[0\]: expected text, got 1"),
        ({"tools": {}}, "tools: expected a list, got dict"),
        ({"extra": {"seed": 1}}, "extra holds 'seed': set the field"),
        ({"extra": []}, "extra: expected a mapping, got list"),
        ({"top_p": 2, "seed": "x"}, "top_p: .*; seed: "),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidParamsError, match=reason) as caught:
        rg.GenerateParams(**fields)

    assert [field for field, _ in caught.value.faults]
    assert isinstance(caught.value, ValueError)


def test_params_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        rg.GenerateParams().temperature = 1


def test_secrets_in_extra_are_sent_and_neither_shown_nor_dumped() -> None:
    headers = {"Authorization": "hunter2", "X-Title": "1"}
    extra = {"user": "bob", "api_key": "hunter2", "extra_headers": headers, "eos_token": "</s>"}
    params = rg.GenerateParams(temperature=1, extra=extra)
    public = {"user": "bob", "extra_headers": {"X-Title": "1"}, "eos_token": "</s>"}

    assert params.to_dict() == {"temperature": 1.0, **extra}
    assert repr(params) == f"GenerateParams(temperature=1.0, extra={public})"
    assert params.model_dump()["extra"] == public
    assert "hunter2" not in params.model_dump_json()
    with rg.register_generator("echo", rg.testing.EchoGenerator):
        generator = rg.testing.EchoGenerator(model="x", params=params)
        chat = generator.chat("Hi").run_sync()
        assert "hunter2" not in generator.to_identifier() + chat.model_dump_json() + str(chat)


def _hashable(values: dict[str, Any]) -> bool:
    try:
        hash(tuple(values.values()))
    except TypeError:
        return False
    return True


# -- One after another -------------------------------------------------------------------


def test_merged_gives_the_same_object_for_the_same_two() -> None:
    merged = rg.params.Merged()
    base, own = rg.GenerateParams(temperature=0.5), rg.GenerateParams(max_tokens=9)

    first = merged(base, own)

    assert merged(base, own) is first
    assert first == base.merge_with(own)
    assert merged(base, rg.GenerateParams(max_tokens=8)).max_tokens == 8
    assert merged(own, base).temperature == 0.5


@pytest.mark.parametrize("held", [{"stop": ["a"]}, {"extra": {"user": "bob"}}])
def test_merged_shares_nothing_that_can_change(held: dict[str, Any]) -> None:
    merged = rg.params.Merged()
    base, own = rg.GenerateParams(**held), rg.GenerateParams(max_tokens=9)

    first = merged(base, own)
    (first.stop or first.extra).clear()

    assert merged(base, own) == base.merge_with(own) != first


@pytest.mark.parametrize("base", [{}, {"extra": {}}, {"temperature": None}])
def test_merged_with_nothing_gives_what_is_there(base: dict[str, Any]) -> None:
    own = rg.GenerateParams(max_tokens=9, extra={"user": "bob"})

    assert rg.params.Merged()(rg.GenerateParams(**base), own) is own


def test_merged_sees_what_was_added_to_the_base() -> None:
    merged, base, own = rg.params.Merged(), rg.GenerateParams(), rg.GenerateParams(max_tokens=9)
    assert merged(base, own) is own

    base.extra["user"] = "bob"

    assert merged(base, own).extra == {"user": "bob"}


def test_no_params_are_new_each_time() -> None:
    one, two = rg.params.no_params(), rg.params.no_params()
    one.extra["user"] = "bob"

    assert (two, two.model_fields_set) == (rg.GenerateParams(), set())
    assert rg.params.no_params() == two
