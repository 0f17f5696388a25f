"""A plugin that is a module: it counts the requests of each model, and brings a generator."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging.events import RequestFinished

finished: Counter[str] = Counter()


def rigging_request_finished(event: RequestFinished) -> None:
    """Count it."""
    finished[event.request.origin.model] += 1


def rigging_register_generators(register: Callable[..., object]) -> None:
    """Bring a generator that is made when it is needed."""

    def make() -> Any:
        from rigging.testing import EchoGenerator

        return EchoGenerator

    register("parrot", make)
