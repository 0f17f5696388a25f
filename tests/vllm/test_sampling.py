from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rigging import GenerateParams
from rigging.error import BadRequestError
from rigging_vllm._sampling import (
    _FIELDS,
    _RESERVED,
    FROM_MODEL,
    UNSUPPORTED,
    Sampling,
    sampling_kwargs,
)

KNOWN = ("temperature", "top_p", "min_p", "min_tokens", "max_tokens", "logprobs", "n", "_eos")


def test_every_field_is_mapped_or_handled_or_warned_about_and_no_other() -> None:
    assert sorted([*_FIELDS, *UNSUPPORTED]) == sorted(GenerateParams.model_fields)


def test_every_name_of_the_tables_is_vllms() -> None:
    from vllm import SamplingParams

    theirs = {name for name in _FIELDS.values() if name is not None}
    assert theirs | set(FROM_MODEL) | set(_RESERVED) <= set(SamplingParams.__struct_fields__)


def test_every_mapped_field_arrives() -> None:
    values: dict[str, Any] = {
        "temperature": 0.5,
        "max_tokens": 7,
        "top_k": 5,
        "top_p": 0.9,
        "stop": ["a", "b"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "seed": 3,
    }
    assert sampling_kwargs(GenerateParams(**values), {}, KNOWN) == values


def test_what_is_not_set_is_left_to_the_model_and_then_to_vllm() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9}

    kwargs = sampling_kwargs(GenerateParams(temperature=0.0), defaults, KNOWN)

    assert kwargs == {"max_tokens": None, "temperature": 0.0, "top_p": 0.9}


def test_an_empty_stop_stops_nothing() -> None:
    assert sampling_kwargs(GenerateParams(stop=["", "x"]), {}, KNOWN)["stop"] == ["x"]


def test_extra_goes_by_vllms_names() -> None:
    params = GenerateParams(extra={"min_tokens": 2, "min_p": 0.1})

    assert sampling_kwargs(params, {"min_p": 0.5}, KNOWN) == {
        "max_tokens": None,
        "min_tokens": 2,
        "min_p": 0.1,
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("min_toks", "did you mean 'min_tokens'", id="near"),
        pytest.param("zzz", r"no sampling parameter 'zzz'; \(it has: logprobs", id="far"),
        pytest.param("_eos", "no sampling parameter '_eos'", id="private"),
        pytest.param("n", r"extra\.n cannot be set: use run_many", id="ours"),
    ],
)
def test_other_extra_is_refused(name: str, why: str) -> None:
    with pytest.raises(BadRequestError, match=why):
        sampling_kwargs(GenerateParams(extra={name: 1}), {}, KNOWN)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"bad_words": "one"}, "a list of texts"),
        ({"logit_bias": {"x": 1.0}}, "token ids"),
        ({"structured_outputs": {"choice": ["a"], "foo": 1}}, "structured_outputs has no 'foo'"),
        ({"repetition_detection": {"a": 1}}, "repetition_detection has no 'a'"),
    ],
    ids=str,
)
def test_what_vllm_would_misread_is_refused(extra: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequestError, match=why):
        made(GenerateParams(extra=extra))


def test_a_seed_that_vllm_takes_for_none_is_refused() -> None:
    with pytest.raises(BadRequestError, match="seed=-1"):
        made(GenerateParams(seed=-1))


def test_token_ids_may_be_texts_as_in_json() -> None:
    assert made(GenerateParams(extra={"logit_bias": {"5": 1.0}})).logit_bias == {5: 1.0}


def made(params: GenerateParams) -> Any:
    from vllm.sampling_params import RequestOutputKind

    model_config = SimpleNamespace(get_diff_sampling_param=dict)
    return Sampling(model_config).params(params, RequestOutputKind.FINAL_ONLY)
