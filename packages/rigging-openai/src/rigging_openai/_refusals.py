"""Answers that say no, as errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigging.error import AuthenticationError, GenerationError
from rigging.http import ErrorReport, http_error, parse_report
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.redaction import Redactor

__all__ = ["RefusedAnswerError", "refused"]


class RefusedAnswerError(Exception):
    """An answer that said no, as it came: the cause of the error that reaches the caller.

    Attributes:
        status: The HTTP status.
        report: What the endpoint said of it.
    """

    def __init__(self, status: int, report: ErrorReport) -> None:
        super().__init__(f"status {status}: {report.message}")
        self.status = status
        self.report = report


def refused(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: str,
    redactor: Redactor,
    had_key: bool,
) -> GenerationError:
    """Return the error of ours for an answer that says no, its cause included.

    Args:
        status: The HTTP status.
        headers: Of the answer.
        body: As far as it came.
        model: That was asked.
        redactor: Knows what must not be shown.
        had_key: Whether a key was sent.
    """
    report = parse_report(body.decode("utf-8", errors="replace"), redactor)
    error = http_error(status, headers, report, provider=PROVIDER, model=model)
    if isinstance(error, AuthenticationError) and not had_key:
        error = AuthenticationError(
            f"{error.message} (no key was sent: set OPENAI_API_KEY, or give api_key)",
            provider=PROVIDER,
            model=model,
            status=status,
        )
    error.__cause__ = RefusedAnswerError(status, report)
    return error
