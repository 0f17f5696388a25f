"""What stands behind an exception of litellm's: what really happened to the request.

litellm raises its exceptions while it handles those of the OpenAI SDK, httpx, aiohttp and the
socket, which Python keeps as their context. Some it keeps as ``original_exception`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from rigging.http import ErrorReport, read_report, retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Evidence", "class_names"]

# An exception with one of these names was raised for an answer with an HTTP status.
_STATUS_ERRORS: Final = frozenset({"HTTPStatusError", "APIStatusError"})

_NO_CODE: Final = 422


@dataclass(frozen=True)
class Evidence:
    """What the chain of exceptions behind ``error``, itself included, tells."""

    error: BaseException

    @cached_property
    def links(self) -> tuple[BaseException, ...]:
        """Every exception of the chain, the outermost first."""
        return tuple(_chain(self.error, set()))

    @cached_property
    def facts(self) -> tuple[BaseException, ...]:
        """The exceptions that are not litellm's own, whose classes and statuses are guesses."""
        return tuple(e for e in self.links if not type(e).__module__.startswith("litellm."))

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the facts' classes and of their bases."""
        return frozenset(name for fact in self.facts for name in class_names(fact))

    @cached_property
    def status(self) -> int | None:
        """The HTTP status of an answer that was refused for it."""
        for fact in self.facts:
            status = getattr(getattr(fact, "response", None), "status_code", None)
            if isinstance(status, int) and not _STATUS_ERRORS.isdisjoint(class_names(fact)):
                return status
        return None

    @cached_property
    def ended_early(self) -> bool:
        """Whether a stream ended without saying why: litellm raises where it meets the end."""
        return {type(fact) for fact in self.facts} == {StopAsyncIteration}

    @cached_property
    def reports(self) -> tuple[ErrorReport, ...]:
        """The errors that the endpoint itself described."""
        return tuple(report for fact in self.facts if (report := _report(fact)) is not None)

    @cached_property
    def codes(self) -> tuple[int | str, ...]:
        """The codes of all of them."""
        return tuple(code for report in self.reports for code in report.codes)

    @cached_property
    def message(self) -> str:
        """What the endpoint said of the error."""
        return next((report.message for report in self.reports if report.message), "")

    @cached_property
    def has_answer(self) -> bool:
        """Whether headers of an answer arrived."""
        return any(map(_headers, self.links))

    @cached_property
    def retry_after(self) -> float | None:
        """Seconds that the endpoint asked to wait."""
        found = (retry_after(_headers(link)) for link in self.links)
        return next((seconds for seconds in found if seconds is not None), None)


def class_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and its bases, the nearest first."""
    return tuple(cls.__name__ for cls in type(error).__mro__)


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    behind = (error.__cause__, getattr(error, "original_exception", None), error.__context__)
    for link in behind:
        if isinstance(link, BaseException):
            yield from _chain(link, seen)


def _headers(link: BaseException) -> Mapping[str, str]:
    response = getattr(link, "response", None)
    found: Mapping[str, str] | None = (
        getattr(link, "litellm_response_headers", None)
        or getattr(link, "headers", None)
        or getattr(response, "headers", None)
    )
    return found or {}


def _report(fact: BaseException) -> ErrorReport | None:
    if type(fact) is Exception and hasattr(fact, "status_code"):
        # litellm raises it for an error that comes with status 200, and sets these: 422 also
        # where the error brings no code.
        code = getattr(fact, "code", None) if fact.status_code == _NO_CODE else fact.status_code
        return read_report({"code": code, "message": getattr(fact, "message", "")})
    body = getattr(fact, "body", None)
    if body is None:
        try:
            body = fact.response.json()  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError, ValueError):  # none, not read, or no JSON
            return None
    return read_report(body)
