"""One answer on its way, cut off where its parameters say so. Nothing to fill in here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rigging import GenerateParams, StopReason, Usage

__all__ = ["Answer"]


class Answer:
    """What comes of one request; all of it is complete when `pieces` has ended.

    Attributes:
        text: What was written so far.
        stop_reason: Why it ended.
    """

    def __init__(self, params: GenerateParams) -> None:
        self.text = ""
        self.stop_reason = StopReason.stop
        self._stops = [stop for stop in params.stop or () if stop]
        self._max_tokens = params.max_tokens
        self._counted = 0
        self._told: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What the model told, with texts counted as tokens where it told none for them."""
        if self._told is None or self._told.output_tokens:
            return self._told
        return self._told + Usage(output_tokens=self._counted)

    def pieces(self, told: Iterable[str | Usage | StopReason]) -> Iterator[str]:
        """Yield the text as it comes, as far as no stop text can take it back."""
        held_back = max(map(len, self._stops), default=1) - 1
        written, yielded = "", 0
        for item in told:
            if isinstance(item, Usage):
                self._told = item
                continue
            if isinstance(item, StopReason):
                self.stop_reason = item
                continue
            written += item
            self._counted += 1
            places = (written.find(stop, yielded) for stop in self._stops)
            found = [place for place in places if place >= 0]
            if found:
                self.stop_reason = StopReason.stop
                written = written[: min(found)]
                break
            safe = max(yielded, len(written) - held_back)
            yield written[yielded:safe]
            yielded = safe
            if self._counted == self._max_tokens:
                self.stop_reason = StopReason.length
                break
        self.text = written
        yield written[yielded:]
