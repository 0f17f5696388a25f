"""litellm's exceptions, as errors of ours: by evidence, and not by name alone.

litellm names its exceptions by what it made of a failure, and invents a status where there
was none: a refused connection is its ``InternalServerError`` with status 500. What really
happened is in the chain behind the exception (see `_evidence`), so that is read first. The
names decide where the chain says nothing.

What an answer's status and code mean is the table of `rigging.http`. Beside it:

| what happened                             | ours                    | status   | retry |
|-------------------------------------------|-------------------------|----------|-------|
| the key is missing                        | AuthenticationError     | none     | no    |
| the client's own time limit               | ProviderTimeoutError    | none     | yes   |
| an error in a text's answer of status 200 | ResponseError           | none     | no    |
| no such host, refused, reset, cut short,  | ProviderConnectionError | none     | yes   |
| something that is not HTTP                |                         |          |       |
| TLS fails, such as for the certificate    | ProviderConnectionError | none     | no    |
| redirects in a circle                     | ResponseError           | none     | no    |
| HTML, no JSON, JSON of another shape      | ResponseError           | none     | no    |
| a request that cannot be built            | BadRequestError         | none     | no    |
| a model without a provider that is known  | BadRequestError         | none     | no    |
| a package that litellm needs is missing   | MissingDependencyError  |          |       |
"""

from __future__ import annotations

import re
import ssl
import sys
from collections import Counter
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
from rigging.http import coded_class, error_class
from rigging.redaction import Redactor
from rigging_litellm._evidence import Evidence, class_names
from rigging_litellm._secrets import keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PROVIDER", "to_rigging_error"]

PROVIDER: Final = "litellm"

# Attributes of SDKs' exceptions that hold a request or its response.
_OF_HTTP: Final = frozenset({"request", "_request", "response"})

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
    "UnprocessableEntityError": BadRequestError,
}

# What httpx, aiohttp and the OpenAI SDK raise when no answer came, and none in time.
_TOO_LATE: Final = frozenset({"TimeoutException", "APITimeoutError", "TimeoutError"})
_NO_ANSWER: Final = frozenset(
    {
        "ConnectError",
        "ConnectionError",
        "HttpProcessingError",  # where what came is not HTTP
        "ReadError",
        "RemoteProtocolError",
        "SSLError",
        "WriteError",
    }
)
_IN_A_CIRCLE: Final = "TooManyRedirects"
_NOT_BUILT: Final = frozenset({"InvalidURL", "LocalProtocolError", "UnsupportedProtocol"})
_NOT_SENT: Final = "APIConnectionError"  # the SDK's, for whatever kept it from asking
# The failures of TLS that are about who is at the other end, and not about the connection.
_DISTRUST: Final = (ssl.SSLError, ssl.SSLCertVerificationError)

# Verdicts that litellm also gives where it has no key, or stumbled over an answer. It then says
# so in words of its own, or it shows in what was raised.
_GUESSED: Final = (ProviderServerError, ProviderConnectionError, None)
_NO_KEY: Final = re.compile(r"missing (?:\w+ )?(?:api key|credentials)", re.IGNORECASE)
_NO_COMPLETION: Final = re.compile(
    r"invalid response|that is not a list|no 'choices'|string response|json", re.IGNORECASE
)
_STUMBLED: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)

# What aiohttp says of an address with credentials, beside which litellm sends a key, and of a
# header with a line break.
_NO_REQUEST: Final = re.compile(
    "Cannot combine AUTHORIZATION|control character detected in headers"
)

_NO_PROVIDER: Final = "LLM Provider NOT provided"

# What litellm puts around the words of others, and aiohttp's name of an object.
_PREFIX: Final = re.compile(
    r"^(?:(?:litellm\.)?[\w-]*(?:Error|Exception|Timeout)(?: \w*(?:Error|Timeout))?(?::| -) )+"
)
_ADDED: Final = re.compile(
    r"\n\s*Traceback \(most recent call last\).*"
    r"|\. Handle with `litellm\.\w+`\."
    r"| ssl:(?:default|<[^>]*>)",
    re.DOTALL,
)
_SAYS_NOTHING: Final = "Connection error."


def to_rigging_error(
    error: BaseException, *, model: str, api_key: str | None = None
) -> RiggingError:
    """Return the error of ours for what litellm raised.

    Keys are taken out of ``error`` and of what stands behind it, since a traceback shows
    them all.

    Args:
        error: What litellm raised.
        model: The model that was asked.
        api_key: The key that the request carried, if it was given explicitly.
    """
    evidence = Evidence(error)
    cls = _judge(evidence)
    status, retry_after = evidence.status, evidence.retry_after
    missing = next((e.name for e in evidence.links if isinstance(e, ModuleNotFoundError)), None)
    retryable = _retryable(evidence)
    redactor = Redactor([*keys_of(evidence.links), api_key])
    for link in evidence.links:
        redactor.exception(link)
        # What was sent has the key among its headers, and what came back may repeat it.
        vars(link).update(dict.fromkeys(_OF_HTTP & vars(link).keys()))
    if missing and status is None:
        return MissingDependencyError(
            PROVIDER,
            f"litellm needs the module {missing!r} for {model!r}: `pip install {missing}`",
            missing,
        )
    return cls(
        redactor.text(_text(evidence, model)),
        provider=PROVIDER,
        model=model,
        status=status,
        retryable=retryable,
        retry_after=retry_after,
    )


# -- What happened -----------------------------------------------------------------------


def _judge(evidence: Evidence) -> type[GenerationError]:
    by_name = _by_name(evidence.error)
    if evidence.status is None:
        coded = coded_class(evidence.codes)
        return coded or _without_status(evidence) or by_name or GenerationError
    cls = error_class(evidence.status, evidence.codes, _words(evidence))
    # A name counts where it says more than the answer does.
    return by_name if by_name is not None and issubclass(by_name, cls) else cls


def _by_name(error: BaseException) -> type[GenerationError] | None:
    return next((_BY_NAME[name] for name in class_names(error) if name in _BY_NAME), None)


def _without_status(evidence: Evidence) -> type[GenerationError] | None:
    """Return the class for a failure that is no refused answer; None if that is not known."""
    names = evidence.names
    stumbled = any(isinstance(link, _STUMBLED) for link in evidence.links)
    if names & _TOO_LATE:
        return ProviderTimeoutError
    if names & _NO_ANSWER:
        return ProviderConnectionError
    if _IN_A_CIRCLE in names:
        return ResponseError
    if names & _NOT_BUILT or _NO_REQUEST.search(str(evidence.error)):
        return BadRequestError
    if _NOT_SENT in names:
        return BadRequestError if stumbled else ProviderConnectionError
    if evidence.reports:
        return error_class(None, evidence.codes)
    if evidence.has_answer:
        return ResponseError
    if _by_name(evidence.error) not in _GUESSED:
        return None
    words = str(evidence.error)
    if _NO_KEY.search(words):
        return AuthenticationError
    if stumbled or _NO_COMPLETION.search(words):
        return ResponseError
    return ProviderConnectionError if evidence.ended_early else None


def _retryable(evidence: Evidence) -> bool | None:
    """Return whether to try again; None for as with others of the class."""
    hopeless = any(report.retryable is False for report in evidence.reports) or any(
        type(fact) in _DISTRUST for fact in evidence.facts
    )
    return False if hopeless else None


# -- What to say -------------------------------------------------------------------------


def _text(evidence: Evidence, model: str) -> str:
    text = _words(evidence)
    if _NO_PROVIDER in text:
        return f"litellm does not know who provides {model!r}: write {_advice(model)}"
    if text == _SAYS_NOTHING:
        system = [fact for fact in reversed(evidence.facts) if isinstance(fact, OSError)]
        causes = [said for fact in (*system, *evidence.facts) if (said := str(fact)) != text]
        text = ": ".join([text.rstrip("."), *causes[:1]])
    return text or type(evidence.error).__name__


def _words(evidence: Evidence) -> str:
    """Return the endpoint's words, else litellm's without its own additions."""
    return evidence.message or _ADDED.sub("", _PREFIX.sub("", str(_spoken(evidence)))).strip()


def _spoken(evidence: Evidence) -> BaseException:
    """Return the exception that says it best: the original one of a stream that broke."""
    for link in evidence.links:
        original = getattr(link, "original_exception", None)
        if isinstance(original, BaseException):
            return original
    return evidence.error


def _advice(model: str) -> str:
    # litellm has raised, so it is imported.
    provider = _likely_provider(sys.modules.get("litellm"), model)
    return f"'{provider or '<provider>'}/{model}'"


def _likely_provider(litellm: Any, model: str) -> str | None:
    """Return who provides the model, else most of its family: those that share its first word."""
    same: set[str] = set()
    unprefixed: Counter[str] = Counter()
    prefixed: Counter[str] = Counter()
    for name, facts in getattr(litellm, "model_cost", {}).items():
        prefix, _, own = name.rpartition("/")
        provider = prefix or facts.get("litellm_provider")
        if provider not in litellm.provider_list:
            continue
        if own == model:
            same.add(provider)
        if own.partition("-")[0] == model.partition("-")[0]:
            (prefixed if prefix else unprefixed)[provider] += 1
    # What litellm knows without a prefix is its first provider's; others offer it as well.
    return max(
        same or {*unprefixed, *prefixed},
        key=lambda provider: (unprefixed[provider], prefixed[provider]),
        default=None,
    )
