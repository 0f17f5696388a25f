"""What a caller wants continued, and what became of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rigging.error import ProviderTimeoutError, RiggingError

if TYPE_CHECKING:
    from rigging.message import Message
    from rigging.params import GenerateParams

__all__ = ["Answer", "Request", "Result"]


class Request(NamedTuple):
    """What one caller wants continued.

    Attributes:
        prompt: A text, or a conversation.
        params: With what the generator holds already merged in.
        deadline: Time (`time.monotonic`, seconds) by which it must be answered.
    """

    prompt: str | tuple[Message, ...]
    params: GenerateParams
    deadline: float | None = None

    @classmethod
    def now(cls, prompt: str | tuple[Message, ...], params: GenerateParams) -> Request:
        """Make a request whose time starts to run."""
        deadline = None if params.timeout is None else time.monotonic() + params.timeout
        return cls(prompt, params, deadline)

    def timed_out(self) -> ProviderTimeoutError:
        """Return the error of a request that was not answered by its deadline."""
        return ProviderTimeoutError(
            f"no answer within {self.params.timeout or 0:g} s, waiting and loading included: "
            f"allow more time, or load() first"
        )


class Answer(NamedTuple):
    """What the engine made of a request.

    Attributes:
        output: vLLM's ``RequestOutput``.
        ignored: Parameters that could not be honoured.
    """

    output: Any
    ignored: tuple[str, ...] = ()


Result: TypeAlias = Answer | RiggingError
