"""What an author tells the contract about a backend: how to make a request fail, or last."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rigging.params import GenerateParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging.error import GenerationError
    from rigging.generator import Generator

__all__ = ["Fault", "SlowRequest"]


def _nothing() -> None:
    """Nothing has to be arranged: the request itself is the cause."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A way to make one request fail, and the error that has to come of it.

    Attributes:
        error: The class that the error must have, exactly.
        name: What happens, for the text of a failed test; if it is empty, the prompt tells.
        prompt: What is asked.
        params: What it is asked with.
        arrange: Called right before the request, so that this one fails and no other: such as
            ``lambda: server.prepare(ServerReply.refusal(401))``.
        generator: Is asked instead of the one under test, where that cannot fail this way: one
            whose model does not exist, say.
        retry_after: The seconds to wait that the error must carry; None: it is not looked at.

    Example:
        >>> from rigging.error import ContextLengthError
        >>> Fault(error=ContextLengthError, prompt="word " * 100_000).described
        "the prompt 'word word word word word word…'"
    """

    error: type[GenerationError]
    name: str = ""
    prompt: str = "Hello."
    params: GenerateParams = field(default_factory=GenerateParams)
    arrange: Callable[[], object] = _nothing
    generator: Generator | None = None
    retry_after: float | None = None

    @property
    def described(self) -> str:
        """What happens, in words."""
        return self.name or f"the prompt {textwrap.shorten(self.prompt, 32, placeholder='…')!r}"


@dataclass(frozen=True, kw_only=True)
class SlowRequest:
    """A request that is still running when the contract cancels it, or lets it time out.

    Attributes:
        prompt: What is asked.
        params: What it is asked with; many tokens keep most engines busy. One that draws its
            answers may end one early, by chance: forbid it, as vLLM's ``ignore_eos`` does.
        arrange: Called right before each such request, and makes it last: such as
            ``lambda: server.prepare(ServerReply(delay_s=600))``.
        after_s: Seconds after which the request is under way, and far from its end.
        places: How many of them occupy the generator wholly, so that the next request
            is answered only if a place has become free.
    """

    prompt: str = "Tell me all that you know."
    params: GenerateParams = field(default_factory=lambda: GenerateParams(max_tokens=100_000))
    arrange: Callable[[], object] = _nothing
    after_s: float = 0.2
    places: int = 1
