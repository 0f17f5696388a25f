"""What endpoints were found not to take, and what goes to them in its place.

There is no list of models. A parameter is sent as it was set; where the endpoint refuses it
by name, the request goes again without it, or with the newer name, and so do all later ones.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from rigging_openai._refusals import RefusedAnswerError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

__all__ = ["Adapted"]

# How endpoints answer to a parameter that they do not take, by status and by code.
_REFUSALS: Final = frozenset({400, 422})
_BY_NAME: Final = "unsupported_parameter"
_BY_VALUE: Final = "unsupported_value"
# Without a code, this tells it from a value that is refused, such as one that is too large.
_IN_WORDS: Final = re.compile(r"unsupported|not supported|\binstead\b", re.IGNORECASE)

_RENAMED: Final = {"max_tokens": "max_completion_tokens"}
_USAGE: Final = "stream_options"

_NOTHING: Final[frozenset[str]] = frozenset()


class Adapted:
    """What is known of each endpoint and model."""

    def __init__(self) -> None:
        self._renamed: defaultdict[Hashable, set[str]] = defaultdict(set)
        # Names, with the value where another one may do.
        self._refused: defaultdict[Hashable, set[tuple[str, str | None]]] = defaultdict(set)
        self._without_usage: set[Hashable] = set()

    def reports_usage(self, endpoint: Hashable) -> bool:
        """Return whether streams may be asked for their usage, as far as is known."""
        return endpoint not in self._without_usage

    def ask_for_usage(self, endpoint: Hashable) -> None:
        """Ask for the usage of streams again: what was refused without it was not refused for it.

        Endpoints like to repeat the whole request in what they say of it.
        """
        self._without_usage.discard(endpoint)

    def taken(
        self, endpoint: Hashable, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the arguments as the endpoint takes them, and the names of those left out."""
        refused, renamed = self._refused.get(endpoint), self._renamed.get(endpoint)
        if not refused and not renamed:
            return arguments, _NOTHING
        left_out = frozenset(
            name
            for name, value in arguments.items()
            if refused and ((name, None) in refused or (name, _shown(value)) in refused)
        )
        taken = {
            _RENAMED[name] if renamed and name in renamed else name: value
            for name, value in arguments.items()
            if name not in left_out
        }
        return taken, left_out

    def learn(
        self, endpoint: Hashable, error: BaseException | None, arguments: Mapping[str, Any]
    ) -> None:
        """Learn from a refusal.

        Args:
            endpoint: Address and model.
            error: What stands behind the error of ours.
            arguments: Those that the caller set.
        """
        if not isinstance(error, RefusedAnswerError) or error.status not in _REFUSALS:
            return
        report = error.report
        if _USAGE not in arguments and _USAGE in f"{report.param} {report.message}":
            self._without_usage.add(endpoint)
        name = report.param or _named(report.message)
        if name is None or name not in arguments:
            return
        newer = _RENAMED.get(name)
        is_old = _BY_NAME in report.codes or _IN_WORDS.search(report.message)
        if newer and is_old and newer in report.message and newer not in arguments:
            self._renamed[endpoint].add(name)
        elif _BY_NAME in report.codes:
            self._refused[endpoint].add((name, None))
        elif _BY_VALUE in report.codes:
            self._refused[endpoint].add((name, _shown(arguments[name])))


def _named(message: str) -> str | None:
    return next((name for name in _RENAMED if f"'{name}'" in message), None)


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
