"""`rigging id`: identifiers taken apart and put together."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from rigging.identifier import Identifier
from tests.core.cli.conftest import Done

Rigging = Callable[..., Done]


def test_parts_are_json(rigging: Rigging) -> None:
    done = rigging("id", "parse", "my-dist:acme!a/b%21,stop=x;y%2Cz,temperature=0.5")

    assert json.loads(done.out) == {
        "distribution": "my-dist",
        "provider": "acme",
        "model": "a/b!",
        "options": {"stop": ["x", "y,z"], "temperature": "0.5"},
    }


def test_secrets_are_left_out(rigging: Rigging) -> None:
    secret = "sk-planted-51c7"
    identifier = (
        f"acme!m,api_key={secret},extra.Authorization={secret},"
        f"api_base=http://user:{secret}@host/v1?key={secret}"
    )

    parsed = rigging("id", "parse", identifier)
    formatted = rigging("id", "format", json.dumps({"model": "m", "options": {"api_key": secret}}))

    assert parsed.code == formatted.code == 0
    assert secret not in parsed.out
    assert json.loads(parsed.out)["options"]["api_key"] == "***"
    assert formatted.out == "m\n"


def test_secrets_in_headers_and_addresses_are_left_out(rigging: Rigging) -> None:
    secret = "sk-planted-51c7"
    headers = {"Authorization": f"Bearer {secret}", "X-Gw": secret}
    given = json.dumps(headers, separators=(",", ":")).replace(",", "%2C")
    options = {"extra.extra_headers": headers, "api_base": f"http://u:{secret}@host"}

    parsed = rigging("id", "parse", f"x!http://u:{secret}@h/m,extra.extra_headers={given}")
    formatted = rigging("id", "format", json.dumps({"model": "m", "options": options}))

    assert parsed.code == formatted.code == 0
    assert secret not in parsed.out + formatted.out


@pytest.mark.parametrize(
    "identifier",
    [
        "gpt-4",
        "acme!a%21b,stop=a%3Bb,temperature=1",
        "my-dist:acme!m,stop=a;b%2C%3Bc,seed=null",
        'acme!m,extra.x={"a":1%2C"b":[2]}',
        "acme!m,name=%20blank%20,empty=",
    ],
)
def test_what_is_taken_apart_is_put_together_again(rigging: Rigging, identifier: str) -> None:
    assert Identifier.parse(identifier).format() == identifier

    parts = rigging("id", "parse", identifier).out

    assert rigging("id", "format", stdin=parts).out == f"{identifier}\n"


def test_values_that_are_no_texts_are_written(rigging: Rigging) -> None:
    parts = {"provider": "acme", "model": "m", "options": {"a": 1, "b": [1, "x"], "c": {"d": None}}}

    done = rigging("id", "format", json.dumps(parts))

    assert done.out == 'acme!m,a=1,b=1;x,c={"d":null}\n'


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("no json", "are JSON"),
        ("[]", "are an object"),
        ('{"provider": "acme"}', "are an object"),
        ('{"model": "m", "options": []}', None),
        ('{"model": "m", "options": [1]}', "options are an object, got list"),
        ('{"model": "m", "modle": 1}', "an identifier has no modle"),
        ('{"model": "m", "provider": "1!"}', "not a provider name"),
        ('{"model": "m", "provider": "a!b"}', "together, they are read as Identifier('a!b%21m')"),
        ('{"model": "m", "provider": 3}', "provider is a text, got int"),
        (
            '{"model": "m", "distribution": "acme"}',
            "together, they are read as Identifier('acme:m')",
        ),
        (
            '{"model": "m", "options": {"a=b": "c"}}',
            "together, they are read as Identifier('m,a=…')",
        ),
        ('{"model": "m", "options": {"a,b": "c"}}', "expected key=value"),
        ('{"model": "\\ud800"}', "surrogates not allowed"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"provider": "P", "distribution": "My_Dist", "model": "m"}', None),
    ],
)
def test_parts_that_are_none_are_refused(rigging: Rigging, parts: str, said: str | None) -> None:
    done = rigging("id", "format", parts)

    assert done.code == (0 if said is None else 2)
    assert (said or "") in done.err


@pytest.mark.parametrize(
    ("value", "said"),
    [("%FF", "%FF is not UTF-8"), ("base64:bm9uZQ==", "not base64 of JSON"), ("[" * 900, None)],
)
def test_a_value_that_cannot_be_read_is_shown(
    rigging: Rigging, value: str, said: str | None
) -> None:
    done = rigging("id", "parse", f"acme!m,x={value}")

    assert done.code == (0 if said is None else 2)
    assert (said or "") in done.err
    assert "Traceback" not in done.err


def test_what_is_no_identifier_is_shown_with_a_caret(rigging: Rigging) -> None:
    done = rigging("id", "parse", "acme!m,temperature")

    assert done.code == 2
    assert "expected key=value after the comma" in done.err
    assert "^" in done.err
