"""Keys, taken out of what is shown."""

from __future__ import annotations

import pytest

from rigging.redaction import Redactor

KEY = "sk-planted-51c7e0d2"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"no such key: {KEY}!", "no such key: ***!"),
        (f"no such key: {KEY[:9]}...", "no such key: ***"),
        ("no such key: sk-other-****1234", "no such key: ***"),
        ("GET http://me:pass@host/", "GET http://***@host/"),
        ("GET /?a=1&key=abc&b=2", "GET /?a=1&key=***&b=2"),
        ("wait...", "wait..."),
    ],
)
def test_a_key_is_replaced_whole_or_in_parts(said: str, shown: str) -> None:
    assert Redactor([KEY, None, "ab"]).text(said) == shown


@pytest.mark.parametrize("word", ["a" * 300_000, KEY[:4] * 50_000, "-" * 300_000])
def test_a_long_word_takes_no_longer_than_others(word: str) -> None:
    # Tried from each of its letters anew, it would take hours.
    assert Redactor([KEY]).text(word) == word


def test_a_key_is_replaced_before_a_part_of_it_that_is_one_too() -> None:
    assert Redactor([KEY[:10], KEY]).text(f"{KEY} {KEY[:10]}") == "*** ***"


def test_an_exception_is_cleaned_in_place_through_and_through() -> None:
    error = ValueError(f"bad {KEY}", {"headers": [("Authorization", KEY)], "port": 80})
    error.note = (KEY, 1)  # type: ignore[attr-defined]

    Redactor([KEY]).exception(error)

    assert error.args == ("bad ***", {"headers": [("Authorization", "***")], "port": 80})
    assert error.note == ("***", 1)  # type: ignore[attr-defined]
