"""What answers of endpoints mean."""

from __future__ import annotations

import email.utils
import json
import time
from typing import Any

import pytest

from rigging import error
from rigging.http import (
    ErrorReport,
    error_class,
    http_error,
    parse_report,
    read_report,
    retry_after,
)
from rigging.redaction import Redactor


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (307, error.ResponseError),
        (400, error.BadRequestError),
        (401, error.AuthenticationError),
        (402, error.PermissionDeniedError),
        (403, error.PermissionDeniedError),
        (404, error.ModelNotFoundError),
        (408, error.ProviderTimeoutError),
        (410, error.ModelNotFoundError),
        (418, error.BadRequestError),
        (422, error.BadRequestError),
        (429, error.RateLimitError),
        (451, error.PermissionDeniedError),
        (498, error.RateLimitError),
        (500, error.ProviderServerError),
        (504, error.ProviderTimeoutError),
        (599, error.ProviderServerError),
    ],
)
def test_the_status_tells_the_class(status: int, cls: type[error.GenerationError]) -> None:
    assert error_class(status) is cls


@pytest.mark.parametrize(
    ("status", "codes", "message", "cls"),
    [
        (400, ["context_length_exceeded"], "", error.ContextLengthError),
        (400, [], "This model's maximum context length is 9", error.ContextLengthError),
        (400, ["x", "content_filter"], "", error.ContentFilterError),
        (500, ["content_filter"], "maximum context length", error.ProviderServerError),
        (None, [], "", error.ProviderServerError),
        (None, ["rate_limit_exceeded"], "", error.RateLimitError),
        (None, [429], "", error.RateLimitError),
        (None, [400], "the context window is full", error.ContextLengthError),
        (None, [7], "", error.ProviderServerError),
    ],
)
def test_a_code_or_the_words_may_say_more(
    status: int | None, codes: list[int | str], message: str, cls: type[error.GenerationError]
) -> None:
    assert error_class(status, codes, message) is cls


@pytest.mark.parametrize(
    ("body", "report"),
    [
        (
            {"error": {"message": "no", "type": "t", "code": "c", "param": "top_k"}},
            ErrorReport("no", ("c", "t"), "top_k"),
        ),
        (
            {"object": "error", "message": "no", "type": "t", "code": 400},
            ErrorReport("no", (400, "t")),
        ),
        ({"error": "no"}, ErrorReport("no")),
        ({"detail": "no"}, ErrorReport("no")),
        (
            {"detail": [{"loc": ["top_k"], "msg": "no"}]},
            ErrorReport('[{"loc": ["top_k"], "msg": "no"}]'),
        ),
        ("no", ErrorReport("no")),
        ({"error": {"message": None, "code": None}}, ErrorReport()),
        (["no"], None),
        (None, None),
        ({"error": 7}, None),
        (
            {
                "detail": [
                    {"loc": ["a"], "msg": "no", "input": {"b": 1}, "ctx": {}, "url": "u"},
                    "x",
                ]
            },
            ErrorReport('[{"loc": ["a"], "msg": "no"}, "x"]'),
        ),
    ],
)
def test_an_error_is_read_whatever_its_shape(body: Any, report: ErrorReport | None) -> None:
    assert read_report(body) == report


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Wed, 01 Jan 0001 00:00:00 +2359"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, pytest.approx(251e9, rel=0.1)),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"}, None),
        ({"retry-after": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 99:99:99 GMT"}, None),
        ({"retry-after": f"Wed, {'9' * 5000} Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": email.utils.formatdate(0, usegmt=True)}, 0.0),
        (
            {"retry-after": email.utils.formatdate(time.time() + 3600, usegmt=True)},
            pytest.approx(3600, abs=1800),
        ),
    ],
)
def test_the_wait_is_read_in_each_of_its_forms(headers: dict[str, str], seconds: Any) -> None:
    assert retry_after(headers) == seconds


def test_a_refusal_becomes_one_error_with_its_facts() -> None:
    body = json.dumps({"error": {"message": "paid up?", "code": "insufficient_quota"}})

    made = http_error(429, {"retry-after": "7"}, parse_report(body), provider="acme", model="m")

    assert type(made) is error.RateLimitError
    assert str(made) == "paid up? [acme!m, status 429, retry after 7 s]"
    assert (made.retryable, made.status, made.retry_after) == (False, 429, 7.0)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("no workers\n left", "no workers left"),
        ("<!DOCTYPE html><p>Bad", "the endpoint answered with status 502, Bad Gateway"),
        ("", "the endpoint answered with status 502, Bad Gateway"),
        ("x" * 1000, "x" * 300 + "…"),
        ("[" * 100_000, "[" * 300 + "…"),
    ],
)
def test_an_answer_that_is_no_json_is_shown_as_far_as_it_says_something(
    body: str, text: str
) -> None:
    assert http_error(502, {}, parse_report(body)).message == text


QUOTA_WITH_KEYS = (
    '{"error": {"message": "used up:\\nsk-****1234, sk-planted\\u002d51c7", '
    '"code": "insufficient_quota", "param": "sk-planted-51c7"}}'
)


def test_a_key_is_taken_out_of_the_parts_of_a_report_and_not_of_its_json() -> None:
    report = parse_report(QUOTA_WITH_KEYS, Redactor(["sk-planted-51c7"]))

    assert report == ErrorReport("used up:\n***, ***", ("insufficient_quota",), "***")
    assert http_error(429, {}, report).retryable is False


def test_a_key_that_an_excerpt_would_cut_is_taken_out_whole() -> None:
    report = parse_report("x" * 290 + " sk-planted-51c7", Redactor(["sk-planted-51c7"]))

    assert report.message == "x" * 290 + " ***"


def test_an_unknown_status_has_no_name() -> None:
    assert http_error(599, {}, ErrorReport()).message == "the endpoint answered with status 599"
