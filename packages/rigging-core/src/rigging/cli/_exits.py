"""How the command ends: what its exit codes mean, and how failures are told."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import TYPE_CHECKING

from rigging.cli._terminal import harmless
from rigging.error import (
    InvalidIdentifierError,
    InvalidValueError,
    MissingDependencyError,
    RiggingError,
    UnknownProviderError,
)

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["ExitCode", "UsageError", "exit_code", "show_warning", "tell"]


class ExitCode(IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILED = 1  # a request failed, or something is broken
    USAGE = 2  # what was typed cannot be understood
    NO_PROVIDER = 3  # the provider, or something that it needs, is not installed
    PARTIAL = 4  # some items of a batch failed
    INTERRUPTED = 130  # as shells have it for Ctrl-C


class UsageError(RiggingError):
    """What was typed, or a file that it names, cannot be understood."""


def exit_code(error: Exception) -> ExitCode:
    """Return how a failure ends the command."""
    if isinstance(error, (UnknownProviderError, MissingDependencyError)):
        return ExitCode.NO_PROVIDER
    if isinstance(error, (UsageError, InvalidIdentifierError, InvalidValueError)):
        return ExitCode.USAGE
    return ExitCode.FAILED


def tell(error: BaseException, *, verbose: bool) -> None:
    """Say on stderr what went wrong; with its traceback where that is wanted."""
    if verbose:
        traceback.print_exception(error)
    else:
        text = str(error) or type(error).__name__
        if not isinstance(error, RiggingError):
            text = f"{type(error).__name__}: {text}"
        for line in (f"rigging: {text}", *getattr(error, "__notes__", ())):
            print(harmless(line, sys.stderr), file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as its text alone: where it was raised says nothing to a user."""
    del filename, lineno, line
    name = "" if issubclass(category, UserWarning) else f"{category.__name__}: "
    print(f"rigging: warning: {name}{message}", file=file or sys.stderr)
