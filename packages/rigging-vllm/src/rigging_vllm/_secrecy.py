"""Exceptions of others, without the secrets that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from rigging.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["without"]


def without(secrets: Sequence[str], error: BaseException) -> BaseException:
    """Return an exception that shows no secret, nor do those that it came from.

    It is the same one, changed; only pydantic's, which keep all that was given to them and
    cannot be changed, are replaced by others that say the same.
    """
    return _without(Redactor(secrets), error, {}) if secrets else error


def _without(
    redactor: Redactor, error: BaseException, seen: dict[int, BaseException]
) -> BaseException:
    if id(error) in seen:
        return seen[id(error)]
    clean = _plain(redactor, error) if isinstance(error, ValidationError) else error
    seen[id(error)] = seen[id(clean)] = clean
    redactor.exception(clean)
    cause, context = error.__cause__, error.__context__
    hides_context = error.__suppress_context__  # setting a cause sets it, too
    clean.__cause__ = cause and _without(redactor, cause, seen)
    clean.__context__ = context and _without(redactor, context, seen)
    clean.__suppress_context__ = hides_context
    return clean


def _plain(redactor: Redactor, error: ValidationError) -> ValidationError:
    """Return an error with the same faults, which holds nothing of what was validated."""
    faults = [
        InitErrorDetails(
            type=PydanticCustomError("redacted", "{text}", {"text": redactor.text(fault["msg"])}),
            loc=fault["loc"],
            input=None,
        )
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    clean = ValidationError.from_exception_data(error.title, faults, hide_input=True)
    return clean.with_traceback(error.__traceback__)
