"""Keys, taken out of what is shown."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest

from rigging.http import ErrorReport
from rigging.redaction import Redactor, is_harmless, is_secret, without_secrets

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


ODD = 'p@ss "w/o" %20\\é'


@pytest.mark.parametrize(
    "spelled",
    [
        ODD,
        quote(ODD),
        quote(ODD, safe=""),
        quote(ODD, safe="").lower(),
        quote_plus(ODD),
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False).replace("/", "\\/"),
        repr(ODD),
    ],
)
def test_a_key_is_known_however_it_is_written(spelled: str) -> None:
    shown = Redactor([ODD]).text(f"GET /?k={spelled}&a=1")

    assert shown.replace('"', "").replace("'", "") == "GET /?k=***&a=1"


@pytest.mark.parametrize(
    "value", [4096, 4096.0, True, None, ("4096", 4096), {"status": 4096}, [None]], ids=repr
)
def test_facts_keep_their_types(value: object) -> None:
    cleaned = Redactor(["4096", "None", "True"]).value(value)

    assert type(cleaned) is type(value)
    assert "'4096'" not in repr(cleaned)
    assert "'***.0'" not in repr(cleaned)


def test_a_report_is_cleaned_part_by_part() -> None:
    report = ErrorReport(f"no {KEY}", ("code", 4096), "top_k")

    assert Redactor([KEY, "code"]).value(report) == ErrorReport("no ***", ("***", 4096), "top_k")


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "X-Api-Key",
        "hf_token",
        "token",
        "Ocp-Apim-Subscription-Key",
        "subscription-key",
        "Helicone-Auth",
        "x-functions-key",
        "X-Amz-Security-Token",
        "Proxy-Authorization",
        "client_secret",
        "Cookie",
    ],
)
def test_a_secrets_name_is_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["pad_token", "max_tokens", "prompt_cache_key", "tokenizer", "author", "key_size"]
)
def test_other_names_are_not_taken_for_a_secrets(name: str) -> None:
    assert not is_secret(name)


def test_of_headers_only_what_is_harmless_is_shown() -> None:
    headers = {"X-Title": "Mine", "X-My-Gateway": KEY, "User-Agent": "me", "Cookie": KEY}

    for name in ("headers", "extra_headers", "default_headers", "extra_query"):
        shown = without_secrets({"tools": [{name: headers}], "user": "bob", name: [KEY[:2]]})
        assert shown == {
            "tools": [{name: {"X-Title": "Mine", "User-Agent": "me"}}],
            "user": "bob",
            name: [KEY[:2]],
        }
    assert [name for name in headers if is_harmless(name)] == ["X-Title", "User-Agent"]
