"""One request on its way: cut off where its parameters say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from rigging import GenerateParams, StopReason, Usage
from rigging.error import ProviderTimeoutError

__all__ = ["Answer"]

_MAX_TOKENS = 64  # where the caller says nothing


class Answer:
    """What comes of a prompt, piece by piece; `text` and the rest are complete at its end.

    Attributes:
        text: What was written so far.
        stop_reason: Why it ended.
        cancelled: Set it, and the answer ends with the next word.
    """

    def __init__(self, prompt: str, params: GenerateParams) -> None:
        self.text = ""
        self.stop_reason = StopReason.length
        self.cancelled = threading.Event()
        self._read = len(prompt.split())
        self._written = 0
        self._params = params
        self._deadline = None if params.timeout is None else time.monotonic() + params.timeout

    @property
    def usage(self) -> Usage:
        """Words, since they are this engine's tokens."""
        return Usage(input_tokens=self._read, output_tokens=self._written)

    def pieces(self, words: Iterable[str]) -> Iterator[str]:
        """Write words, and yield what no stop text can take back."""
        stops = [stop for stop in self._params.stop or () if stop]
        longest = max(map(len, stops), default=1)
        written, yielded = "", 0
        for word in words:
            if self.cancelled.is_set():
                return
            self._check_time()
            self._written += 1
            written += f" {word}"
            found = [written.find(stop) for stop in stops if stop in written]
            if found:
                self.stop_reason = StopReason.stop
                written = written[: min(found)]
                break
            safe = max(yielded, len(written) - longest + 1)
            self.text = written[:safe]
            yield written[yielded:safe]
            yielded = safe
            if self._written == (self._params.max_tokens or _MAX_TOKENS):
                break
        self.text = written
        yield written[yielded:]

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise ProviderTimeoutError(f"no answer within {self._params.timeout:g} s")
