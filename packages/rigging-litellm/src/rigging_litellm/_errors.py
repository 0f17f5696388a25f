"""litellm's exceptions, as errors of ours: by evidence, and not by name alone.

litellm names its exceptions by what it made of a failure, and invents a status where there
was none: a refused connection is its ``InternalServerError`` with status 500. What really
happened is in the chain behind the exception (of the OpenAI SDK, httpx and the socket), so
that is read first. The names decide where the chain says nothing.

| what happened                     | litellm                     | ours                    |
|-----------------------------------|-----------------------------|-------------------------|
| 400, the prompt is too long       | ContextWindowExceededError  | ContextLengthError      |
| 400, the content is refused       | ContentPolicyViolationError | ContentFilterError      |
| 400, 422, any other               | BadRequestError             | BadRequestError         |
| 401                               | AuthenticationError         | AuthenticationError     |
| 402                               | PaymentRequiredError        | PermissionDeniedError   |
| 403                               | APIError                    | PermissionDeniedError   |
| 404                               | NotFoundError               | ModelNotFoundError      |
| 408, 504, the client's own limit  | Timeout                     | ProviderTimeoutError    |
| 429                               | RateLimitError              | RateLimitError          |
| 500, 502, 503                     | one class for each          | ProviderServerError     |
| refused, reset, no such host      | InternalServerError (500)   | ProviderConnectionError |
| an answer that is no completion   | InternalServerError (500)   | ResponseError           |
"""

from __future__ import annotations

import email.utils
import re
import time
from typing import TYPE_CHECKING, Any, Final

from rigging.error import (
    AuthenticationError,
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    GenerationError,
    MissingDependencyError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProviderConnectionError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
    ResponseError,
    RiggingError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["PROVIDER", "to_rigging_error"]

PROVIDER: Final = "litellm"

# Names of litellm's exceptions, looked up along the class's bases: the nearest counts.
_BY_NAME: Final[Mapping[str, type[GenerationError]]] = {
    "APIConnectionError": ProviderConnectionError,
    "APIResponseValidationError": ResponseError,
    "AuthenticationError": AuthenticationError,
    "BadGatewayError": ProviderServerError,
    "BadRequestError": BadRequestError,
    "ContentPolicyViolationError": ContentFilterError,
    "ContextWindowExceededError": ContextLengthError,
    "InternalServerError": ProviderServerError,
    "NotFoundError": ModelNotFoundError,
    "PaymentRequiredError": PermissionDeniedError,
    "PermissionDeniedError": PermissionDeniedError,
    "RateLimitError": RateLimitError,
    "ServiceUnavailableError": ProviderServerError,
    "Timeout": ProviderTimeoutError,
    "TimeoutError": ProviderTimeoutError,
    "UnprocessableEntityError": BadRequestError,
}

_BY_STATUS: Final[Mapping[int, type[GenerationError]]] = {
    401: AuthenticationError,
    402: PermissionDeniedError,
    403: PermissionDeniedError,
    404: ModelNotFoundError,
    408: ProviderTimeoutError,
    429: RateLimitError,
    504: ProviderTimeoutError,
}

# The ``code`` in an error of OpenAI's shape.
_BY_CODE: Final[Mapping[str, type[GenerationError]]] = {
    "content_filter": ContentFilterError,
    "content_policy_violation": ContentFilterError,
    "context_length_exceeded": ContextLengthError,
}

# What httpx, aiohttp and the OpenAI SDK raise when no answer came, and none in time.
_NO_ANSWER: Final = frozenset({"ConnectError", "ReadError", "WriteError", "RemoteProtocolError"})
_TOO_LATE: Final = frozenset({"TimeoutException", "APITimeoutError", "TimeoutError"})
_ANSWERED: Final = frozenset({"HTTPStatusError", "APIStatusError", "ClientResponseError"})

# Verdicts that litellm also gives where it stumbled over an answer, which it then says in
# words of its own, or which shows in what was raised.
_GUESSED: Final = (ProviderServerError, ProviderConnectionError)
_NO_COMPLETION: Final = re.compile(r"invalid response|that is not a list|json", re.IGNORECASE)
_STUMBLED: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)

_PREFIX: Final = re.compile(r"^(?:(?:litellm\.)?[A-Z]\w+(?:Error|Timeout|Exception): )+")
_KEY_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_SHORTEST_KEY: Final = 4  # characters; replacing shorter ones would only garble the text


def to_rigging_error(
    error: BaseException, *, model: str, api_key: str | None = None
) -> RiggingError:
    """Return the error of ours for what litellm raised.

    The key of the request is taken out of the text, and out of the texts of ``error`` and
    of what stands behind it, since a traceback shows them all.

    Args:
        error: What litellm raised.
        model: The model that was asked.
        api_key: The key that the request carried, if it was given explicitly.
    """
    chain = list(_chain(error))
    _scrub(chain, _keys(chain) | {api_key or ""})
    missing = next((e.name for e in chain if isinstance(e, ModuleNotFoundError)), None)
    if missing:
        return MissingDependencyError(
            PROVIDER,
            f"litellm needs the module {missing!r} for {model!r}: `pip install {missing}`",
            missing,
        )
    cls, status = _judge(error, chain)
    text = _PREFIX.sub("", str(error)).strip() or type(error).__name__
    return cls(text, provider=PROVIDER, model=model, status=status, retry_after=_retry_after(chain))


def _judge(
    error: BaseException, chain: list[BaseException]
) -> tuple[type[GenerationError], int | None]:
    """Return the class, and the status of the answer if there was one."""
    names = {name for link in chain if not _is_verdict(link) for name in _names(link)}
    verdict = next((_BY_NAME[name] for name in _names(error) if name in _BY_NAME), None)
    status = next((s for s in map(_status, chain) if s is not None), None)
    coded = next((_BY_CODE[c] for c in map(_code, chain) if c in _BY_CODE), None)
    if coded is not None:
        return coded, status
    if status is not None:
        exact = _BY_STATUS.get(status) or _by_range(status)
        # The verdict counts where it says more than the status does.
        return verdict if verdict is not None and issubclass(verdict, exact) else exact, status
    if names & _TOO_LATE:
        return ProviderTimeoutError, None
    if names & _NO_ANSWER or any(isinstance(link, ConnectionError) for link in chain):
        return ProviderConnectionError, None
    stumbled = any(isinstance(link, _STUMBLED) for link in chain)
    if verdict in _GUESSED and (stumbled or _NO_COMPLETION.search(str(error))):
        return ResponseError, None
    return verdict or GenerationError, None


def _by_range(status: int) -> type[GenerationError]:
    if status >= 500:
        return ProviderServerError
    return BadRequestError if status >= 400 else ResponseError


# -- Reading the chain -------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and what stands behind it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _names(link: BaseException) -> list[str]:
    return [cls.__name__ for cls in type(link).__mro__]


def _is_verdict(link: BaseException) -> bool:
    # litellm's exceptions derive from the SDK's, and so look like evidence.
    return type(link).__module__.startswith("litellm.")


def _status(link: BaseException) -> int | None:
    if _is_verdict(link) or _ANSWERED.isdisjoint(_names(link)):
        return None
    response: Any = getattr(link, "response", None)
    status = getattr(response, "status_code", None) or getattr(link, "status", None)
    return status if isinstance(status, int) else None


def _code(link: BaseException) -> str:
    code = getattr(link, "code", None)
    return code if isinstance(code, str) else ""


def _retry_after(chain: Iterable[BaseException]) -> float | None:
    for link in chain:
        headers: Any = getattr(link, "litellm_response_headers", None)
        value = headers.get("retry-after") if headers else None
        if value:
            return _seconds(str(value))
    return None


def _seconds(value: str) -> float | None:
    """Read a Retry-After: seconds, or a date.

    Source:
        RFC 9110, section 10.2.3.
    """
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


# -- Keeping keys out --------------------------------------------------------------------


def _keys(chain: Iterable[BaseException]) -> set[str]:
    """Return the keys that the request carried; litellm may have found one by itself."""
    found: set[str] = set()
    for link in chain:
        headers: Any = getattr(_request(link), "headers", None) or {}
        found.update(
            str(headers[name]).removeprefix("Bearer ") for name in _KEY_HEADERS if name in headers
        )
    return found


def _request(link: BaseException) -> Any:
    try:
        return getattr(link, "request", None)
    except RuntimeError:  # httpx: the request was never set
        return None


def _scrub(chain: Iterable[BaseException], keys: Iterable[str]) -> None:
    secrets = [key for key in keys if len(key) >= _SHORTEST_KEY]
    for link in chain:
        link.args = tuple(_without(secrets, arg) for arg in link.args)
        message = getattr(link, "message", None)
        if isinstance(message, str):
            link.__dict__["message"] = _without(secrets, message)


def _without(secrets: Iterable[str], value: Any) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value
