"""How far a batch is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rigging.cli._tally import Tally

__all__ = ["Display", "duration"]

_BAR_S: Final = 0.1
_LINE_S: Final = 30.0


class Display:
    """Shows a tally on stderr while its context lasts.

    Args:
        tally: What to show.
        total: How many items there are.
    """

    def __init__(self, tally: Tally, total: int) -> None:
        self._tally = tally
        self._total = total
        self._bar: Any = None
        self._every_s = _LINE_S
        self._next = time.monotonic() + _LINE_S
        if sys.stderr.isatty():
            # Only here: a third of the command's start goes into it.
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

            self._bar = Progress(
                TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
                BarColumn(),
                TextColumn("{task.fields[facts]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, facts="")
            self._every_s, self._next = _BAR_S, 0.0

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self) -> None:
        """Show the tally as it is now, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        facts = self._facts()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._tally.items, facts=facts)
        else:
            print(f"{self._tally.items:,} of {self._total:,}: {facts}", file=sys.stderr)

    def _facts(self) -> str:
        tally = self._tally
        rate = tally.requests_per_s
        facts = [f"{rate:,.1f}/s"]
        if tally.new_tokens:
            facts.append(f"{tally.tokens_per_s:,.0f} tokens/s")
        if tally.failed:
            facts.append(f"{tally.failed:,} failed")
        if rate and self._total > tally.items:
            facts.append(f"{duration((self._total - tally.items) / rate)} left")
        return ", ".join(facts)


def duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> duration(9.44), duration(754), duration(90000)
        ('9.4 s', '12 min 34 s', '25 h 0 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"
