"""What the HTTP answers of endpoints mean: the class of an error, and how long to wait.

For providers that talk to a service. `http_error` makes the whole error of a refused answer;
the parts it is made of serve those whose library has read the answer already.

| what happened                             | ours                    | status   | retry |
|-------------------------------------------|-------------------------|----------|-------|
| the prompt is too long                    | ContextLengthError      | 400      | no    |
| the content is refused                    | ContentFilterError      | 400      | no    |
| 400, 409, 413, 422, other 4xx             | BadRequestError         | the same | no    |
| 401                                       | AuthenticationError     | 401      | no    |
| 402, 403, 451                             | PermissionDeniedError   | the same | no    |
| 404, 410                                  | ModelNotFoundError      | the same | no    |
| 408, 504                                  | ProviderTimeoutError    | the same | yes   |
| 429, 498 (no capacity at Groq)            | RateLimitError          | the same | yes   |
| 429 with the code ``insufficient_quota``  | RateLimitError          | 429      | no    |
| 500, 502, 503, 529, other 5xx             | ProviderServerError     | the same | yes   |
| an error in an answer of status 200,      | as its code says, else  | none     | as    |
| or in a stream                            | ProviderServerError     |          | its   |
|                                           |                         |          | class |
| 3xx that leads nowhere                    | ResponseError           | 3xx      | no    |

A used-up quota comes back when somebody pays, not when somebody waits. The wait is that of
``retry-after-ms`` or ``Retry-After``, whatever the status.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from rigging.error import (
    AuthenticationError,
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    GenerationError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
    ResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rigging.redaction import Redactor

__all__ = [
    "ErrorReport",
    "coded_class",
    "error_class",
    "http_error",
    "parse_report",
    "read_report",
    "retry_after",
]

_BY_STATUS: Final[Mapping[int, type[GenerationError]]] = {
    401: AuthenticationError,
    402: PermissionDeniedError,
    403: PermissionDeniedError,
    404: ModelNotFoundError,
    408: ProviderTimeoutError,
    410: ModelNotFoundError,
    429: RateLimitError,
    451: PermissionDeniedError,
    498: RateLimitError,
    504: ProviderTimeoutError,
}

# The ``code`` or ``type`` in an error's body.
_BY_CODE: Final[Mapping[int | str, type[GenerationError]]] = {
    "content_filter": ContentFilterError,
    "content_policy_violation": ContentFilterError,
    "context_length_exceeded": ContextLengthError,
    "insufficient_quota": RateLimitError,
    "rate_limit_error": RateLimitError,
    "rate_limit_exceeded": RateLimitError,
}
_QUOTA: Final = "insufficient_quota"

# How endpoints say it that have no code for it.
_TOO_LONG: Final = re.compile(
    r"context (?:length|window)|maximum model length|prompt is too long", re.IGNORECASE
)

_ECHO: Final = frozenset({"ctx", "input", "url"})

_SHOWN: Final = 300  # characters of an answer that is no JSON
_HTML: Final = re.compile(r"\s*<(?:!doctype|html)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as the endpoint describes it.

    Attributes:
        message: Its words; empty if it has none.
        codes: Its ``code`` and ``type``, as far as there are any.
        param: The parameter that it is about, if it names one.
    """

    message: str = ""
    codes: tuple[int | str, ...] = ()
    param: str | None = None

    @property
    def retryable(self) -> bool | None:
        """Whether to try again; None for as with others of the error's class."""
        return False if _QUOTA in self.codes else None

    def redacted(self, redactor: Redactor) -> ErrorReport:
        """Return the report without keys."""
        return ErrorReport(
            redactor.text(self.message), redactor.value(self.codes), redactor.value(self.param)
        )


def http_error(
    status: int,
    headers: Mapping[str, str],
    report: ErrorReport,
    *,
    provider: str | None = None,
    model: str | None = None,
) -> GenerationError:
    """Return the error of ours for an answer that says no.

    Args:
        status: The HTTP status.
        headers: Of the answer; looked up in lower case.
        report: What the endpoint says of it; see `parse_report`.
        provider: The provider's name.
        model: The model that was asked.

    Example:
        >>> report = parse_report('{"error": {"message": "slow down"}}')
        >>> print(http_error(429, {"retry-after": "7"}, report))
        slow down [status 429, retry after 7 s]
    """
    return error_class(status, report.codes, report.message)(
        report.message or f"the endpoint answered with {_phrase(status)}",
        provider=provider,
        model=model,
        status=status,
        retryable=report.retryable,
        retry_after=retry_after(headers),
    )


def parse_report(body: str, redactor: Redactor | None = None) -> ErrorReport:
    """Read the error in a body, JSON or not.

    Args:
        body: As it came.
        redactor: Takes out the key, which endpoints like to repeat where they refuse it. It
            cannot go before this: JSON may not be any more what a part was replaced in.
    """
    try:
        report = read_report(json.loads(body))
    except (ValueError, RecursionError):
        report = None
    if report is None:
        # The whole of it first: of a key that is cut off, the beginning would be shown.
        return ErrorReport(_excerpt(body if redactor is None else redactor.text(body)))
    return report if redactor is None else report.redacted(redactor)


def read_report(body: object) -> ErrorReport | None:
    """Read the error in an answer; None if there is nothing like one.

    Args:
        body: The answer's JSON: OpenAI's shape and those of vLLM, Ollama, FastAPI and others.

    Example:
        >>> read_report({"error": {"message": "no", "type": "x", "code": None}}).codes
        ('x',)
    """
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return ErrorReport(error)
    if not isinstance(error, dict):
        return None
    codes = (error.get("code"), error.get("type"))
    message = _without_echo(error.get("message", error.get("detail")))
    param = error.get("param")
    return ErrorReport(
        message if isinstance(message, str) else json.dumps(message) if message else "",
        tuple(code for code in codes if isinstance(code, int | str)),
        param if isinstance(param, str) else None,
    )


def error_class(
    status: int | None, codes: Iterable[int | str] = (), message: str = ""
) -> type[GenerationError]:
    """Return the class of an error that an endpoint reports.

    Args:
        status: The HTTP status; None for an error in an answer that began well.
        codes: The ``code`` and ``type`` of the error.
        message: Its words.

    Example:
        >>> error_class(400, ["context_length_exceeded"]).__name__
        'ContextLengthError'
    """
    codes = tuple(codes)
    coded = coded_class(codes)
    if status is None:
        numbers = (code for code in codes if isinstance(code, int) and code >= 400)
        cls = coded or next(map(_by_status, numbers), ProviderServerError)
    else:
        cls = _by_status(status)
        # A code counts where it says more than the status does.
        if coded is not None and issubclass(coded, cls):
            cls = coded
    return ContextLengthError if cls is BadRequestError and _TOO_LONG.search(message) else cls


def coded_class(codes: Iterable[int | str]) -> type[GenerationError] | None:
    """Return the class that the first known one of the codes stands for."""
    return next((_BY_CODE[code] for code in codes if code in _BY_CODE), None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an endpoint asks to wait; None if it does not.

    Args:
        headers: Of the answer; looked up in lower case.

    Source:
        RFC 9110, section 10.2.3; ``retry-after-ms`` is OpenAI's and Azure's.
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is not None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # no date, or one that no clock knows
        return None


def _without_echo(message: object) -> object:
    """Return the details of a refusal without what they repeat of the request, as FastAPI's do."""
    if not isinstance(message, list):
        return message
    return [
        {name: value for name, value in detail.items() if name not in _ECHO}
        if isinstance(detail, dict)
        else detail
        for detail in message
    ]


def _by_status(status: int) -> type[GenerationError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return ProviderServerError
    return BadRequestError if status >= 400 else ResponseError


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def _excerpt(body: str) -> str:
    """Return the beginning of an answer in words; a page is none."""
    if _HTML.match(body):
        return ""
    text = " ".join(body[: 2 * _SHOWN].split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _phrase(status: int) -> str:
    try:
        return f"status {status}, {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"
