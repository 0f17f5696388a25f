"""One request on its way through a batch: its prompt, its tokens, and when it ends.

A row knows by itself when it is finished, whatever else the batch holds. No tensor
comes here; the decoding loop hands over each token as it falls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from rigging_transformers._loaded import NO_CHARACTER, wider

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from rigging_transformers._sampling import Plan

__all__ = ["NO_TOKEN", "End", "Row", "cut_at_stop"]

End: TypeAlias = Literal["stop", "length", "timeout", "cancelled", "invalid"]

#: Stands for the next token where the model's scores are not numbers.
NO_TOKEN: Final = -1

# Tokens decoded beyond those that a stop text can span: a window's first character may
# be half a one, and some tokens decode to nothing.
_MARGIN: Final = 8


@dataclass
class Row:
    """One request, prepared.

    Attributes:
        prompt: Token ids of the prompt.
        plan: How its tokens are chosen.
        max_tokens: How many may be generated, at least 1.
        end_ids: Tokens that end it, and are no part of its text.
        stops: Texts that end it, likewise.
        deadline: Time (`time.monotonic`, seconds) after which it is given up.
        continuation: Makes text of token ids that follow others.
        is_cancelled: Tells whether nobody waits for it any more.
        tokens: What was generated so far, with the token that ended it.
        end: Why it ended; None while it runs.
        random_numbers: Of its own, once the first was drawn; None where it has no seed.
        distinct: Its tokens and its prompt's, each once, where these are made less likely.
        followers: What has followed its runs of tokens, where none may be there twice.
    """

    prompt: Sequence[int]
    plan: Plan
    max_tokens: int
    end_ids: Collection[int]
    stops: Sequence[str]
    deadline: float | None
    continuation: Callable[[Sequence[int], Sequence[int]], str]
    is_cancelled: Callable[[], bool] = lambda: False
    tokens: list[int] = field(default_factory=list)
    end: End | None = None
    random_numbers: Any = None
    distinct: Any = None
    followers: Any = None

    def __post_init__(self) -> None:
        # A token is a byte at least, so a stop text lies within so many of the last ones.
        self._window = max((len(stop.encode()) for stop in self.stops), default=0) + _MARGIN

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def most(self) -> int:
        """Tokens that prompt and answer may have together."""
        return len(self.prompt) + self.max_tokens

    def add(self, token: int, now: float) -> None:
        """Take the next token, and find out whether it is the last."""
        if token == NO_TOKEN:
            self.end = "invalid"
            return
        self.tokens.append(token)
        if self.is_cancelled():
            self.end = "cancelled"
        elif token in self.end_ids or self._has_stop():
            self.end = "stop"
        elif len(self.tokens) >= self.max_tokens:
            self.end = "length"
        elif self.is_late(now):
            self.end = "timeout"

    def watch(self, now: float) -> None:
        """End it if nobody waits any more, or its deadline has passed."""
        if self.is_cancelled():
            self.end = "cancelled"
        elif self.is_late(now):
            self.end = "timeout"

    def is_late(self, now: float) -> bool:
        """Tell whether the deadline has passed."""
        return self.deadline is not None and now > self.deadline

    @property
    def text(self) -> str:
        """What was generated, up to the stop text or token that ended it."""
        return cut_at_stop(self.continuation(self.prompt, self.shown), self.stops)

    @property
    def shown(self) -> Sequence[int]:
        """The tokens that make its text: all but the one that ended it."""
        ended_by_token = self.tokens and self.tokens[-1] in self.end_ids
        return self.tokens[:-1] if ended_by_token else self.tokens

    def _has_stop(self) -> bool:
        if not self.stops:
            return False
        recent = self._recent()
        if not any(stop in recent for stop in self.stops):
            return False
        # The beginning of a window may decode differently, so the whole text decides.
        text = self.continuation(self.prompt, self.tokens)
        return any(stop in text for stop in self.stops)

    def _recent(self) -> str:
        """Return the end of its text, as much as a stop text can reach into."""
        count = self._window
        while count < len(self.tokens):
            text = self.continuation((), self.tokens[-count:])
            if not text.startswith(NO_CHARACTER):
                return text
            # It began within a character, which spoils all of a run of bytes.
            count = wider(count, self._window)
        return self.continuation(self.prompt, self.tokens)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return ``text`` up to where the first of ``stops`` begins.

    Example:
        >>> cut_at_stop("one; two. three", [".", ";"])
        'one'
    """
    found = [index for index in map(text.find, stops) if index >= 0]
    return text[: min(found)] if found else text
