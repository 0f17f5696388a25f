"""The engine: which words follow which in a text. It knows nothing of rigging.

All of it blocks, and all of it may be called from any thread.
"""

from __future__ import annotations

import random
import statistics
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Chain", "Engine"]


class Chain:
    """The words of a text, each with what precedes it. The end leads back to the beginning."""

    def __init__(self, text: str, order: int) -> None:
        self._order = order
        self._words = text.split()
        self._following: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        ring = self._words + self._words[:order]
        for start in range(len(self._words)):
            for end in range(start + 1, start + order + 1):
                self._following[tuple(ring[start:end])].append(ring[end % len(ring)])

    def words_after(self, prompt: str, *, greedy: bool, seed: int | None) -> Iterator[str]:
        """Yield one word after another, for ever."""
        draw = random.Random(seed)
        told = prompt.split()[-self._order :]
        while True:
            choices = self._choices(told)
            word = statistics.mode(choices) if greedy else draw.choice(choices)
            yield word
            told = [*told, word][-self._order :]

    def _choices(self, told: list[str]) -> list[str]:
        """Return what follows the words in the text, or at least the last of them."""
        for start in range(len(told)):
            following = self._following.get(tuple(told[start:]))
            if following:
                return following
        return self._words


class Engine:
    """A chain that is there when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[tuple[Path, int], Chain] | None = None

    def load(self, path: Path, order: int) -> Chain:
        """Return the chain of a text, which is read unless it is there already."""
        with self._lock:
            if self._loaded is None or self._loaded[0] != (path, order):
                chain = Chain(path.read_text(encoding="utf-8"), order)
                self._loaded = (path, order), chain
            return self._loaded[1]

    def unload(self) -> None:
        """Forget the chain."""
        with self._lock:
            self._loaded = None

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        return Engine()  # a copied generator loads its own
