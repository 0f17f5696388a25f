"""The exceptions and warnings of Rigging, one tree.

Every error derives from `RiggingError` and from the builtin that a caller would
expect, so ``except ValueError`` and ``except ImportError`` keep working. The text
says what was given, what was expected and what to do; the facts are attributes.
No text ever holds an API key.

    RiggingError
    ├── InvalidIdentifierError (ValueError)       an identifier string is malformed
    ├── InvalidValueError (ValueError)            a field is unknown, or its value does not fit
    │   ├── InvalidMessageError                   of a message or a conversation
    │   ├── InvalidParamsError                    of generation parameters
    │   └── InvalidGeneratorError                 of a generator
    ├── InvalidPluginError (ValueError)           a plugin implements no hook, or one wrongly
    ├── UnregisteredGeneratorError (LookupError)  no provider name leads to this class
    ├── NotSupportedError (NotImplementedError)   a generator does not do this kind of request
    ├── CheckpointError (OSError)                 a checkpoint file cannot be used
    ├── MaxRoundsError (RuntimeError)             `until` asked for more rounds than allowed
    ├── MaxDepthError (RecursionError)            `then` nested deeper than allowed
    ├── ProviderLookupError (LookupError)         a provider could not be had
    │   ├── UnknownProviderError                  nothing installed provides the name
    │   ├── AmbiguousProviderError                several distributions claim the name
    │   ├── MissingDependencyError (ImportError)  installed, but something it needs is not
    │   ├── BrokenProviderError (ImportError)     installed, but its code does not load
    │   └── IncompatibleProviderError (TypeError) written against another plugin API
    └── GenerationError                           a request failed at the provider
        ├── RateLimitError (RuntimeError)
        ├── AuthenticationError (PermissionError)
        ├── PermissionDeniedError (PermissionError)
        ├── ModelNotFoundError (LookupError)
        ├── BadRequestError (ValueError)
        │   ├── ContextLengthError
        │   └── ContentFilterError
        ├── ProviderTimeoutError (TimeoutError)
        ├── ProviderConnectionError (ConnectionError)
        ├── ProviderServerError (RuntimeError)
        └── ResponseError (ValueError)            the answer breaks the protocol

    RiggingWarning (UserWarning)
    ├── TruncationWarning                         a backend did not read all of a prompt
    └── UnsupportedParameterWarning               a backend cannot honour a parameter
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar, Self

from rigging._text import caret, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AmbiguousProviderError",
    "AuthenticationError",
    "BadRequestError",
    "BrokenProviderError",
    "CheckpointError",
    "ContentFilterError",
    "ContextLengthError",
    "GenerationError",
    "IncompatibleProviderError",
    "InvalidGeneratorError",
    "InvalidIdentifierError",
    "InvalidMessageError",
    "InvalidParamsError",
    "InvalidPluginError",
    "InvalidValueError",
    "MaxDepthError",
    "MaxRoundsError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NotSupportedError",
    "PermissionDeniedError",
    "ProviderConnectionError",
    "ProviderLookupError",
    "ProviderServerError",
    "ProviderTimeoutError",
    "RateLimitError",
    "ResponseError",
    "RiggingError",
    "RiggingWarning",
    "TruncationWarning",
    "UnknownProviderError",
    "UnregisteredGeneratorError",
    "UnsupportedParameterWarning",
]


class RiggingError(Exception):
    """Root of everything that Rigging raises on purpose. Every error of the tree pickles."""

    def copy(self) -> Self:
        """Return an equal error of the same cause: two requests cannot share one traceback."""
        copied = copy.copy(self)
        copied.__cause__ = self.__cause__
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        # The default calls the class with `args`, which fails for keyword arguments.
        return _rebuild, (type(self), self.args, self.__dict__)


# -- What the caller wrote ---------------------------------------------------------------


class InvalidIdentifierError(RiggingError, ValueError):
    """An identifier string that does not follow the grammar, or names unknown keys.

    Attributes:
        reason: What is wrong, in a phrase.
        identifier: The identifier as it may be shown: secrets are masked.
        position: Index in ``identifier`` at which the fault lies, 0-based.
        hint: What to do, or what would be valid; empty if there is nothing to add.
    """

    def __init__(self, reason: str, identifier: str, position: int, hint: str = "") -> None:
        super().__init__(reason, identifier, position, hint)
        self.reason = reason
        self.identifier = identifier
        self.position = position
        self.hint = hint

    def __str__(self) -> str:
        lines = [f"invalid identifier: {self.reason}", caret(self.identifier, self.position)]
        return "\n".join([*lines, self.hint] if self.hint else lines)


class InvalidValueError(RiggingError, ValueError):
    """Something was built with an unknown field, or with a value that does not fit.

    Attributes:
        faults: ``(field, what is wrong)`` of each field at fault; empty where the fault
            is no single field's.
    """

    def __init__(self, message: str, faults: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.faults: tuple[tuple[str, str], ...] = tuple(faults)


class InvalidMessageError(InvalidValueError):
    """A message or a conversation that cannot be built or sent."""


class InvalidParamsError(InvalidValueError):
    """Generation parameters with an unknown field or a value that does not fit."""


class InvalidGeneratorError(InvalidValueError):
    """A generator or its registration with an unknown field or a value that does not fit."""


class InvalidPluginError(RiggingError, ValueError):
    """A plugin implements no hook, an unknown one, or one in a way that cannot be called."""


class UnregisteredGeneratorError(RiggingError, LookupError):
    """No provider name leads to a generator's class, so it has no identifier.

    Attributes:
        cls: The class in question.
    """

    def __init__(self, cls: type) -> None:
        super().__init__(cls)
        self.cls = cls

    def __str__(self) -> str:
        name = self.cls.__qualname__
        return (
            f"{self.cls.__module__}.{name} is registered under no provider name, so it cannot be "
            f"written as an identifier. Register it: "
            f"`rigging.register_generator({name.lower()!r}, {name})`, or declare it in a package "
            f"under the entry point group 'rigging.generators'."
        )


class NotSupportedError(RiggingError, NotImplementedError):
    """A generator continues texts only, or conversations only."""


# -- A run -------------------------------------------------------------------------------


class CheckpointError(RiggingError, OSError):
    """A checkpoint file is in use, is none of ours, or cannot be written."""


class MaxRoundsError(RiggingError, RuntimeError):
    """A callback of ``until`` was not content after the last round.

    Attributes:
        max_rounds: How many rounds were allowed.
        item: The chat or completion of the last round; what was paid for is not lost.
    """

    def __init__(self, max_rounds: int, item: object = None) -> None:
        super().__init__(
            f"`until` was not content after {max_rounds} rounds: allow more with max_rounds=…, "
            f"or take failed items with on_failed='include'"
        )
        self.max_rounds = max_rounds
        self.item = item


class MaxDepthError(RiggingError, RecursionError):
    """Pipelines returned by ``then`` led to others deeper than allowed.

    Attributes:
        max_depth: How deep they may nest.
    """

    def __init__(self, max_depth: int) -> None:
        super().__init__(
            f"`then` led {max_depth} pipelines deep: let the callback return None in the end, "
            f"or allow more with max_depth=…"
        )
        self.max_depth = max_depth


# -- Finding a provider ------------------------------------------------------------------


class ProviderLookupError(RiggingError, LookupError):
    """A provider that was asked for could not be had.

    Attributes:
        provider: The provider's name, lower-cased.
    """

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(message)
        self.provider = provider


class UnknownProviderError(ProviderLookupError):
    """Nothing that is installed or registered provides the name.

    Attributes:
        known: The provider names that can be had, sorted.
        install: The command that installs the provider; None if it is not known.
    """

    def __init__(
        self,
        provider: str,
        known: Iterable[str] = (),
        *,
        install: str | None = None,
        detail: str = "",
    ) -> None:
        self.known: tuple[str, ...] = tuple(sorted(known))
        self.install = install
        near = nearest(provider, self.known)
        if install:
            remedy = f"Install it: `{install}`."
        elif near:
            remedy = f"Did you mean {near!r}?"
        else:
            remedy = "Install the package that provides it, or call `register_generator`."
        available = ", ".join(self.known) or "none"
        text = f"provider {provider!r} is not installed (available: {available}). {remedy}"
        super().__init__(provider, f"{text} {detail}".rstrip())


class AmbiguousProviderError(ProviderLookupError):
    """Several installed distributions claim one name, and nothing says which is meant.

    Attributes:
        candidates: ``(distribution, version)`` of each claimant, sorted.
    """

    def __init__(self, provider: str, candidates: Iterable[tuple[str, str]]) -> None:
        self.candidates: tuple[tuple[str, str], ...] = tuple(sorted(candidates))
        first = self.candidates[0][0]
        claims = ", ".join(f"{name} {version}" for name, version in self.candidates)
        variable = f"RIGGING_PROVIDER_{provider.upper().replace('-', '_')}"
        super().__init__(
            provider,
            f"provider {provider!r} is claimed by {len(self.candidates)} installed distributions: "
            f"{claims}. Choose one: write '{first}:{provider}!…', or set {variable}={first}, "
            f"or uninstall the others.",
        )


class MissingDependencyError(ProviderLookupError, ImportError):
    """The provider is installed, but a module that it needs is not.

    Attributes:
        dependency: The module that is missing; dotted where the package it belongs to is there.
    """

    def __init__(self, provider: str, message: str, dependency: str) -> None:
        super().__init__(provider, message)
        self.dependency = dependency


class BrokenProviderError(ProviderLookupError, ImportError):
    """The provider is installed, but what its entry point names cannot be used."""


class IncompatibleProviderError(ProviderLookupError, TypeError):
    """The provider was written against another version of the plugin API.

    Attributes:
        found: The ``plugin_api`` of the provider's class.
        expected: The one of this rigging-core.
    """

    def __init__(self, provider: str, message: str, found: object, expected: int) -> None:
        super().__init__(provider, message)
        self.found = found
        self.expected = expected


# -- A request that failed ---------------------------------------------------------------


class GenerationError(RiggingError):
    """A request that failed at the provider, whatever library reported it.

    The library's own exception, where there is one, is the ``__cause__``.

    Attributes:
        message: What happened, in a phrase.
        provider: The provider's name, if known.
        model: The model that was asked, if known.
        status: The HTTP status, if there was one.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds that the endpoint asked to wait, if it did.
    """

    #: What `retryable` is unless the raiser knows better.
    retryable_by_default: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.model = model
        self.status = status
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        facts = [
            f"{self.provider}!{self.model}" if self.provider and self.model else self.model,
            f"status {self.status}" if self.status is not None else None,
            f"retry after {self.retry_after:g} s" if self.retry_after is not None else None,
        ]
        known = ", ".join(fact for fact in facts if fact)
        return f"{self.message} [{known}]" if known else self.message


class RateLimitError(GenerationError, RuntimeError):
    """The endpoint refused the request because too many came (HTTP 429)."""

    retryable_by_default = True


class AuthenticationError(GenerationError, PermissionError):
    """The key is missing or wrong (HTTP 401)."""


class PermissionDeniedError(GenerationError, PermissionError):
    """The key is right, but not allowed to do this (HTTP 403)."""


class ModelNotFoundError(GenerationError, LookupError):
    """The model does not exist: at the endpoint, on the hub or on disk (HTTP 404)."""


class BadRequestError(GenerationError, ValueError):
    """The request itself is wrong and will stay so (HTTP 400, 422)."""


class ContextLengthError(BadRequestError):
    """The prompt, with what it asks for, does not fit the model's context."""


class ContentFilterError(BadRequestError):
    """The provider refused the content."""


class ProviderTimeoutError(GenerationError, TimeoutError):
    """No answer came in time (HTTP 408, 504, or the client's own limit)."""

    retryable_by_default = True


class ProviderConnectionError(GenerationError, ConnectionError):
    """The endpoint could not be reached, or the connection broke."""

    retryable_by_default = True


class ProviderServerError(GenerationError, RuntimeError):
    """The endpoint or the engine failed (HTTP 5xx)."""

    retryable_by_default = True


class ResponseError(GenerationError, ValueError):
    """An answer came, but it breaks the protocol: wrong count, type or shape."""


# -- Warnings ----------------------------------------------------------------------------


class RiggingWarning(UserWarning):
    """Root of the warnings that Rigging gives."""


class TruncationWarning(RiggingWarning):
    """A prompt was too long for the backend, which answered without reading all of it."""


class UnsupportedParameterWarning(RiggingWarning):
    """A parameter that was set cannot be honoured by the backend; it was left out."""


def _rebuild(
    cls: type[RiggingError], args: tuple[object, ...], attributes: dict[str, object]
) -> RiggingError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    if "__notes__" in attributes:
        error.__notes__ = [*error.__notes__]  # a copy takes notes of its own
    return error
