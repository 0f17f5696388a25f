"""What happens in a run, as plugins are told: facts and sizes, never a conversation, never a key.

Events are immutable and belong to whoever gets them: keep them, send them to another
thread, pickle them. `rigging.plugins.Hooks` says when each is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.result import StopReason, Usage

__all__ = [
    "ModelLoaded",
    "ModelUnloaded",
    "Operation",
    "Origin",
    "RequestFailed",
    "RequestFinished",
    "RequestStarted",
    "Sampling",
]

#: What is asked of a generator: to go on with a conversation, or with a text.
Operation: TypeAlias = Literal["chat", "completion"]


class Sampling(dict[str, float]):
    """Parameters that are numbers, by their names; read-only, since many events share them.

    A dict all the same, so that it goes into JSON as it is.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("an event cannot be changed: change a copy, `dict(event.sampling)`")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[Sampling], tuple[dict[str, float]]]:
        # A pickled dict is filled item by item otherwise, which is refused.
        return Sampling, (dict(self),)


class Origin(NamedTuple):
    """Where requests come from and go to; the same object for all of one run.

    Attributes:
        operation: ``chat`` for conversations, ``completion`` for texts.
        model: Which model, in the provider's own terms.
        provider: The provider's name; None if the generator's class is registered under none.
        generator_id: The generator's identifier, without its key and without what is secret in
            addresses; None likewise. It holds what the generator's own parameters hold, stop
            texts among them.
        label: What `ChatPipeline.name` has set; None if nothing.
    """

    operation: Operation
    model: str
    provider: str | None
    generator_id: str | None
    label: str | None


class RequestStarted(NamedTuple):
    """A request goes to its generator, where it may still wait for its turn.

    Attributes:
        id: Names the request in this process.
        origin: Where it comes from and goes to.
        messages: How many messages it holds; 1 for a text.
        characters: How long its texts are together.
        streams: Whether the answer is wanted in pieces.
        at: When, in seconds since 1970.
        sampling: The parameters that are numbers (``temperature``, ``max_tokens``, …), those
            of the generator overridden by those of the request.
    """

    id: int
    origin: Origin
    messages: int
    characters: int
    streams: bool
    at: float
    sampling: Mapping[str, float]


class RequestFinished(NamedTuple):
    """A request was answered.

    Attributes:
        request: What was told when it started.
        duration_s: Seconds since then; waits, retries of the provider's and loading included.
        first_piece_s: Seconds until the first piece of a stream; None for other requests.
        characters: How long the answer's text is.
        usage: Tokens taken, if known.
        stop_reason: Why the answer ended.
        response_model: The model that the backend names in its answer, if it does.
        response_id: The answer's name at the backend, if it gives one.
    """

    request: RequestStarted
    duration_s: float
    first_piece_s: float | None
    characters: int
    usage: Usage | None
    stop_reason: StopReason
    response_model: str | None
    response_id: str | None


class RequestFailed(NamedTuple):
    """A request was not answered.

    Attributes:
        request: What was told when it started.
        duration_s: Seconds since then.
        error_type: The class of the error, such as ``RateLimitError``.
        status: The HTTP status, where there was one.
        retryable: Whether the same request may pass later.
        is_cancelled: Nobody wanted the answer any more: a caller was cancelled, another item
            of its run failed, or a stream was left early.
    """

    request: RequestStarted
    duration_s: float
    error_type: str
    status: int | None
    retryable: bool
    is_cancelled: bool


class ModelLoaded(NamedTuple):
    """A model was brought into memory.

    Attributes:
        provider: The provider's name.
        model: Which model.
        duration_s: Seconds that it took.
    """

    provider: str
    model: str
    duration_s: float


class ModelUnloaded(NamedTuple):
    """A model's memory was given back.

    Attributes:
        provider: The provider's name.
        model: Which model.
    """

    provider: str
    model: str
