"""The parts that know no model: parameters, rows, padding, places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigging import GenerateParams
from rigging_transformers._padding import left_pad
from rigging_transformers._row import Row, cut_at_stop
from rigging_transformers._sampling import Sampling, plan
from rigging_transformers._source import Source, locate
from tests.support.bytes_tokenizer import decode

if TYPE_CHECKING:
    from pathlib import Path

ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6)


@given(rows=ROWS)
def test_the_mask_selects_exactly_the_original_tokens(rows: list[list[int]]) -> None:
    ids, mask = left_pad(rows, pad_id=-1)

    assert len({len(row) for row in ids}) == 1
    kept = [
        [token for token, real in zip(i, m, strict=True) if real]
        for i, m in zip(ids, mask, strict=True)
    ]
    assert kept == rows
    assert all(m == sorted(m) for m in mask), "padding stands on the left"


def test_an_empty_batch_is_not_padded() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        left_pad([], 0)


# -- Parameters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "defaults", "sampling"),
    [
        pytest.param({}, {}, Sampling(), id="nothing-is-greedy"),
        pytest.param({"temperature": 0}, {"do_sample": True}, Sampling(), id="zero-is-greedy"),
        pytest.param({"seed": 1}, {}, Sampling(), id="a-seed-alone-draws-nothing"),
        pytest.param({"extra": {"do_sample": False}, "top_p": 0.5}, {}, Sampling(), id="explicit"),
        pytest.param(
            {"temperature": 0.5, "seed": 1},
            {},
            Sampling(True, (("temperature", 0.5), ("top_k", 50)), seed=1),
            id="temperature",
        ),
        pytest.param(
            {"temperature": 1.0, "top_k": 0, "top_p": 1.0}, {}, Sampling(True), id="all-neutral"
        ),
        pytest.param(
            {"top_p": 0.5},
            {"temperature": 0.6, "top_k": 20},
            Sampling(True, (("temperature", 0.6), ("top_k", 20), ("top_p", 0.5))),
            id="the-model-fills-in",
        ),
        pytest.param(
            {"presence_penalty": 1.0, "frequency_penalty": 0.5},
            {},
            Sampling(presence_penalty=1.0, frequency_penalty=0.5),
            id="penalties",
        ),
    ],
)
def test_sampling_follows_from_params_and_the_models_defaults(
    params: dict[str, Any], defaults: dict[str, Any], sampling: Sampling
) -> None:
    assert plan(GenerateParams(**params), defaults).sampling == sampling


def test_beams_run_alone_with_everything_left_to_transformers() -> None:
    params = GenerateParams(temperature=0.7, seed=1, extra={"num_beams": 4, "length_penalty": 2})

    assert plan(params, {}).alone
    assert plan(params, {}).ignored == ("seed",)
    assert plan(params, {}).kwargs == {
        "num_beams": 4,
        "length_penalty": 2,
        "temperature": 0.7,
        "do_sample": True,
    }


# -- Rows --------------------------------------------------------------------------------


def finished(text: str, *, stops: list[str], max_tokens: int = 1000) -> Row:
    row = Row((), plan(GenerateParams(), {}), max_tokens, {0}, stops, None, decode)
    for token in text.encode():
        row.add(token, now=0.0)
        if row.end:
            break
    return row


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60),
    stops=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), max_size=3),
)
def test_a_row_ends_at_the_first_stop_text(text: str, stops: list[str]) -> None:
    row = finished(text, stops=stops)

    # One that begins later may be complete sooner: nothing comes after that.
    said = (text[:end] for end in range(len(text) + 1))
    ended = next((part for part in said if any(stop in part for stop in stops)), text)
    assert row.text == cut_at_stop(ended, stops)
    assert (row.end == "stop") == any(stop in text for stop in stops)


def test_a_stop_text_far_into_an_answer_is_found() -> None:
    row = finished("naïve " * 100 + "日本語 and more", stops=["本語"])

    assert row.text == "naïve " * 100 + "日"


def test_a_row_ends_at_its_own_token_limit() -> None:
    row = finished("abcdef", stops=[], max_tokens=4)

    assert (row.text, row.end) == ("abcd", "length")


def test_a_row_ends_at_its_end_token() -> None:
    row = finished("ab\0cd", stops=[])

    assert (row.text, row.end, len(row.tokens)) == ("ab", "stop", 3)


# -- Places ------------------------------------------------------------------------------


def test_a_hub_id_is_taken_as_it_is() -> None:
    assert locate("org/name-1.5_b") == Source("org/name-1.5_b")


def test_a_gguf_file_is_named_within_its_directory(tmp_path: Path) -> None:
    (tmp_path / "Small.gguf").write_bytes(b"")

    assert locate(str(tmp_path / "Small.gguf")) == Source(str(tmp_path), "Small.gguf")


def test_a_directory_wins_over_a_hub_id(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)

    assert locate(tiny_model.name) == Source(tiny_model.name)
