"""A bar that shows how a batch is going: rate, failures and tokens."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rigging._item import Item

__all__ = ["Progress"]


class Progress:
    """One run's bar; made by tqdm, in a terminal or a notebook, and silent elsewhere.

    Args:
        total: How many items there will be; None if nobody knows.
        label: What to call the run.

    Raises:
        ImportError: If tqdm is not installed.

    Source:
        tqdm, ``tqdm.auto``; ``disable=None`` keeps it quiet where there is no terminal.
    """

    def __init__(self, total: int | None, label: str | None) -> None:
        try:
            tqdm: Any = importlib.import_module("tqdm.auto").tqdm
        except ImportError as error:
            raise ImportError(
                "progress=True needs tqdm: `pip install 'rigging-core[progress]'`"
            ) from error
        self._bar = tqdm(total=total, desc=label, unit="item", disable=None)
        self._failed = 0
        self._tokens = 0

    def add(self, item: Item | None) -> None:
        """Count a finished item; None is one that failed and was skipped."""
        if item is None or item.failed:
            self._failed += 1
        elif item.usage is not None:
            self._tokens += item.usage.total_tokens
        # Not drawn at once: tqdm looks at the clock.
        self._bar.set_postfix(failed=self._failed, tokens=self._tokens, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
