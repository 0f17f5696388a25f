"""The way from pipelines to a generator: requests that wait are sent together.

A `Scheduler` belongs to one generator, one kind of request and one event loop. Whatever
pipeline or callback a request comes from, it joins the others that wait, and they go out
in calls of up to ``batch_size``. Two attributes of the generator steer it:

- ``batch_size``: how many requests one call may carry; None means all that wait;
- ``max_calls``: how many calls may be in flight; None means any number. What arrives
  while all are busy joins the next call, which is how an engine that works on one batch
  at a time gets full ones.

Requests are futures, not tasks, and a flush is scheduled once per turn of the loop, so
that a batch of a million pays for its own bookkeeping only.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from rigging.error import InvalidGeneratorError, ResponseError, RiggingError

if TYPE_CHECKING:
    from rigging.params import GenerateParams

__all__ = ["Scheduler", "Schedulers", "bound", "connections", "is_cancelled"]

InputT = TypeVar("InputT")
ResultT = TypeVar("ResultT")

_Generate: TypeAlias = Callable[
    [Sequence[InputT], "Sequence[GenerateParams]"], Awaitable[Sequence[ResultT | BaseException]]
]


class _Request(Generic[InputT, ResultT]):
    """One request that waits or is in flight."""

    __slots__ = ("call", "future", "input", "params")

    def __init__(
        self, input_: InputT, params: GenerateParams, future: asyncio.Future[ResultT]
    ) -> None:
        self.input = input_
        self.params = params
        self.future = future
        self.call: _Call | None = None


class _Call:
    """One call in flight, and how many callers still want something of it."""

    __slots__ = ("task", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.task: asyncio.Task[None] | None = None


class Scheduler(Generic[InputT, ResultT]):
    """Sends the requests of one kind to one generator, on one event loop.

    Args:
        generate: The generator's method.
        result_type: What a result must be.
        name: The generator's class, for messages.

    Attributes:
        batch_size: How many requests one call may carry; None for all that wait.
        max_calls: How many calls may be in flight; None for any number.
    """

    def __init__(
        self,
        generate: _Generate[InputT, ResultT],
        result_type: type[ResultT],
        *,
        name: str,
    ) -> None:
        self._generate = generate
        self._result_type = result_type
        self._name = name
        self.batch_size: int | None = None
        self.max_calls: int | None = None
        # No reference to the loop: it would keep itself alive in `Schedulers`.
        self._waiting: deque[_Request[InputT, ResultT]] = deque()
        self._in_flight: set[_Call] = set()
        self._flush_is_due = False
        self._turns: deque[asyncio.Future[None]] = deque()  # of streams that wait

    @property
    def send(self) -> Callable[[InputT, GenerateParams], Awaitable[ResultT]]:
        """What sends one request with whatever else waits, and returns its result.

        A caller that is cancelled takes its request out of the queue; a call whose
        callers are all gone is cancelled too.

        It raises what the generator returned or raised for this request, and `ResponseError`
        if the generator breaks its contract.
        """
        # With nothing to wait for, no task and no future either.
        return self._ask if self.batch_size == 1 and self.max_calls is None else self._submit

    async def _submit(self, input_: InputT, params: GenerateParams) -> ResultT:
        request = _Request(input_, params, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._flush_soon()
        try:
            result: ResultT = await request.future
        except asyncio.CancelledError:
            await self._abandon(request)
            raise
        return result

    def place(self) -> _Place:
        """Return a context that counts as a call in flight: a stream, which is no request."""
        return _Place(self)

    async def enter(self, call: _Call) -> None:
        """Wait until one more call may be in flight, and count it."""
        while self.max_calls is not None and len(self._in_flight) >= self.max_calls:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            await turn
        self._in_flight.add(call)

    def leave(self, call: _Call) -> None:
        """Count a call no more, and let in what waits: a stream first, it came alone."""
        self._in_flight.discard(call)
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        waiting = self._waiting
        while waiting and (self.max_calls is None or len(self._in_flight) < self.max_calls):
            size = self.batch_size or len(waiting)
            batch: list[_Request[InputT, ResultT]] = []
            while waiting and len(batch) < size:
                request = waiting.popleft()
                if not request.future.done():  # its caller was cancelled meanwhile
                    batch.append(request)
            if batch:
                self._send(batch)

    def _send(self, batch: list[_Request[InputT, ResultT]]) -> None:
        call = _Call(len(batch))
        for request in batch:
            request.call = call
        self._in_flight.add(call)
        call.task = asyncio.create_task(self._run(batch))
        # Not in a `finally` of the task, which a task that is cancelled at once never enters.
        call.task.add_done_callback(lambda task: self._end(call, batch, task))

    async def _run(self, batch: list[_Request[InputT, ResultT]]) -> None:
        results = await self._called(
            [request.input for request in batch], [request.params for request in batch]
        )
        self._check(results, len(batch))
        for request, result in zip(batch, results, strict=True):
            if request.future.done():
                continue
            if isinstance(result, self._result_type):
                request.future.set_result(result)
            else:
                request.future.set_exception(self._failure(result))

    def _end(
        self,
        call: _Call,
        batch: list[_Request[InputT, ResultT]],
        task: asyncio.Task[None],
    ) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            ordered = task.cancelled() and task.cancelling()
            error = error if ordered else self._failure(error)
            for request in batch:
                if request.future.done():
                    continue
                if ordered:
                    request.future.cancel()
                else:
                    request.future.set_exception(_own_copy(error))
        self.leave(call)

    async def _ask(self, input_: InputT, params: GenerateParams) -> ResultT:
        try:
            results = await self._called([input_], [params])
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise self._failure(error) from error
        if type(results) is not list or len(results) != 1:
            self._check(results, 1)
        result = results[0]
        if isinstance(result, self._result_type):
            return result
        raise self._failure(result)

    def _called(
        self, inputs: Sequence[InputT], params: Sequence[GenerateParams]
    ) -> Awaitable[Sequence[ResultT | BaseException]]:
        call = self._generate(inputs, params)
        # The first is nearly always so, and asked at a fraction of the cost.
        if type(call) is not CoroutineType and not inspect.isawaitable(call):
            raise ResponseError(
                f"{self._name} has a generate method that is no coroutine function: "
                f"write `async def`"
            )
        return call

    def _check(self, results: Sequence[object], count: int) -> None:
        # A list first, as nearly always: to ask an abstract class takes its time.
        if not isinstance(results, (list, Sequence)) or isinstance(results, str):
            raise ResponseError(
                f"{self._name} returned {type(results).__name__} for {count} requests: "
                f"a generator returns a list, one result per input, in order"
            )
        if len(results) != count:
            raise ResponseError(
                f"{self._name} returned {len(results)} results for {count} requests: "
                f"a generator returns one result per input, in order"
            )

    def _failure(self, result: object) -> BaseException:
        # A future refuses the one, and the other would pass for a cancelled caller.
        if isinstance(result, (StopIteration, asyncio.CancelledError)):
            error = ResponseError(f"a request was ended by {result!r} from inside {self._name}")
            error.__cause__ = result
            return error
        if isinstance(result, BaseException):
            return result
        return ResponseError(
            f"{self._name} returned a {type(result).__name__} where a "
            f"{self._result_type.__name__} or an exception was expected"
        )

    async def _abandon(self, request: _Request[InputT, ResultT]) -> None:
        call = request.call
        if call is None:
            return  # still in the queue, where the flush passes over it
        call.wanted -= 1
        if call.wanted == 0 and call.task is not None and not call.task.done():
            call.task.cancel()
            # So that the call has ended when the last of its callers has.
            await asyncio.wait([call.task])


class _Place:
    """A place among the calls in flight, taken while the context lasts."""

    def __init__(self, scheduler: Scheduler[Any, Any]) -> None:
        self._scheduler = scheduler
        self._call = _Call(1)

    async def __aenter__(self) -> None:
        await self._scheduler.enter(self._call)

    async def __aexit__(self, *_: object) -> None:
        self._scheduler.leave(self._call)


class Schedulers:
    """The schedulers of one generator: one per event loop and kind of request."""

    def __init__(self) -> None:
        # Keyed weakly by the loop: a generator outlives the loops that it is used on.
        self._by_loop: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[type, Scheduler[Any, Any]]
        ] = WeakKeyDictionary()

    def get(
        self,
        generator: object,
        generate: _Generate[InputT, ResultT],
        result_type: type[ResultT],
    ) -> Scheduler[InputT, ResultT]:
        """Return the scheduler of the running loop for one kind of request.

        Raises:
            InvalidGeneratorError: If ``batch_size`` or ``max_calls`` is no bound.
        """
        kinds = self._by_loop.setdefault(asyncio.get_running_loop(), {})
        if result_type not in kinds:
            kinds[result_type] = Scheduler(generate, result_type, name=type(generator).__name__)
        scheduler = kinds[result_type]
        scheduler.batch_size = bound(generator, "batch_size")
        scheduler.max_calls = bound(generator, "max_calls")
        return scheduler

    def __deepcopy__(self, memo: object) -> Schedulers:
        return Schedulers()  # a copied generator shares nothing that can change


def is_cancelled() -> bool:
    """Tell whether somebody has cancelled the running task.

    A `CancelledError` that nobody ordered comes from code that is called, and is that
    code's failure.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _own_copy(error: BaseException) -> BaseException:
    """Return an equal error where that can be had: waiters add notes and tracebacks."""
    return error.copy() if isinstance(error, RiggingError) else error


def connections(generator: object) -> int | None:
    """Return how many requests a generator of a service has in flight; None where it says none."""
    value = getattr(generator, "max_connections", None)
    return value if isinstance(value, int) and value > 0 else None


def bound(generator: object, name: str) -> int | None:
    """Read an attribute or field of a generator that bounds something; None for no bound.

    Raises:
        InvalidGeneratorError: If it is neither None nor at least 1.
    """
    value = getattr(generator, name, None)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InvalidGeneratorError(
            f"{type(generator).__name__}.{name} is {value!r}: expected None or at least 1"
        )
    return value
