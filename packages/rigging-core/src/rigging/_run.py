"""One run of a pipeline: what takes a job to its finished item, counts, and keeps it.

A `Run` is what the workers of `rigging._pool.Pool` call. What chats and completions do
each in their way, it asks of the pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias, cast

from pydantic import ValidationError

from rigging._checkpoint import Checkpoint
from rigging._item import as_json
from rigging._progress import Progress
from rigging._scheduler import is_cancelled
from rigging.error import (
    CheckpointError,
    InvalidGeneratorError,
    InvalidMessageError,
    InvalidParamsError,
    ResponseError,
    RiggingError,
    UnregisteredGeneratorError,
)
from rigging.params import GenerateParams

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Catching",
    "Identifiable",
    "Job",
    "OnFailed",
    "Post",
    "Request",
    "Run",
    "Settings",
    "generator_id",
    "joined",
    "nesting",
]

OnFailed: TypeAlias = Literal["raise", "skip", "include"]
Request: TypeAlias = Callable[[Any, GenerateParams], Awaitable[Any]]
Post: TypeAlias = Callable[[Any], Any]

_NOTE: Final = "rigging: "

#: How deep pipelines returned by ``then`` have led to pipelines, in the running task.
nesting: Final[ContextVar[int]] = ContextVar("rigging_nesting", default=0)


class Job(NamedTuple):
    """One item of a run.

    Attributes:
        input: What to send.
        params: Those of the pipeline, overridden by its own.
        metadata: Its own notes.
    """

    input: Any
    params: GenerateParams
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Catching:
    """Which errors are a failed item, and what becomes of it."""

    errors: tuple[type[BaseException], ...] = (RiggingError, ValidationError)
    exclude: tuple[type[BaseException], ...] = ()
    on_failed: OnFailed = "raise"

    def __post_init__(self) -> None:
        if self.on_failed not in {"raise", "skip", "include"}:
            raise InvalidParamsError(
                f"on_failed is 'raise', 'skip' or 'include', got {self.on_failed!r}"
            )

    def takes(self, error: BaseException) -> bool:
        """Tell whether this error makes a failed item, and not a failed run."""
        return (
            self.on_failed != "raise"
            and isinstance(error, self.errors)
            and not isinstance(error, self.exclude)
            # What was answered cannot be kept: that is no failure of the item.
            and not isinstance(error, CheckpointError)
        )


class Settings(NamedTuple):
    """How one run goes."""

    catching: Catching
    window: int
    checkpoint: Path | None
    progress: bool


class Identifiable(Protocol):
    """A generator, as far as its name is concerned."""

    def to_identifier(self, params: GenerateParams | None = None, *, short: bool = False) -> str:
        """Return the generator's identifier, without its key."""
        ...


class Run:
    """One run of a pipeline.

    Args:
        pipeline: A `rigging._pipeline.Pipeline`, which stands above this module.
        settings: How it goes.
        checkpoint: Where finished items are kept; open.
        bar: What shows the progress.

    Attributes:
        answered: Tasks that hold an answer, and still work on what becomes of it.
    """

    def __init__(
        self,
        pipeline: Any,
        settings: Settings,
        checkpoint: Checkpoint | None = None,
        bar: Progress | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._settings = settings
        self._checkpoint = checkpoint
        self._bar = bar
        self._name = generator_id(pipeline.generator)
        self._request = pipeline._request(self._name)
        if checkpoint is not None:
            self._request = self._noting(self._request)
        self.answered: set[asyncio.Task[Any]] = set()
        self._params: GenerateParams | None = None
        self._sender = b""
        self._started = 0
        self._finished = 0
        self._failed = 0

    @classmethod
    async def entered(
        cls,
        stack: contextlib.AsyncExitStack,
        pipeline: Any,
        settings: Settings,
        items: object,
    ) -> Run:
        """Make a run, with the checkpoint and the bar that its settings ask for."""
        checkpoint = bar = None
        if settings.checkpoint is not None:
            checkpoint = await stack.enter_async_context(Checkpoint(settings.checkpoint))
        if settings.progress:
            total = len(items) if isinstance(items, Sized) else None
            bar = stack.enter_context(contextlib.closing(Progress(total, pipeline.label)))
        return cls(pipeline, settings, checkpoint, bar)

    def _noting(self, request: Request) -> Request:
        async def noted(given: Any, params: GenerateParams) -> Any:
            result = await request(given, params)
            task = asyncio.current_task()
            if task is not None:
                self.answered.add(task)
            return result

        return noted

    async def fit_and_run(self, given: Any) -> Any:
        """Run an input that has not been looked at yet."""
        pipeline = self.pipeline
        params, metadata = pipeline.params, None
        try:
            if isinstance(given, _Given):
                given, own, metadata = given
                if own is not None:
                    params = params.merge_with(own)
            job = Job(pipeline._fit(given), params, metadata)
        except (InvalidMessageError, InvalidParamsError) as error:
            unfit = Job(pipeline._held(), params, metadata)
            self._started += 1
            return self._fail(error, unfit, self._started - 1)
        return await self(job)

    async def __call__(self, job: Job) -> Any:
        number = self._started
        self._started = number + 1
        # A run that a callback starts is no deeper for that.
        outside = nesting.set(0)
        pipeline = self.pipeline
        try:
            sent, posts = await pipeline._prepared(job) if pipeline._prepares else (job, ())
            if self._checkpoint is None:
                item = await pipeline._process(sent, posts, self._request, self._name)
            else:
                item = await self._kept(sent, posts, self._checkpoint)
        except (Exception, asyncio.CancelledError) as error:
            if not isinstance(error, asyncio.CancelledError):
                item = self._fail(error, job, number)
            elif is_cancelled():
                raise
            else:
                foreign = ResponseError("a callback ended an item by a CancelledError of its own")
                foreign.__cause__ = error
                item = self._fail(foreign, job, number)
        else:
            self._finished += 1
        finally:
            nesting.reset(outside)
            if self.answered:
                self.answered.discard(cast("asyncio.Task[Any]", asyncio.current_task()))
        if self._bar is not None:
            self._bar.add(item)
        if item is not None and pipeline.watches:
            await pipeline._shown(item)
        return item

    async def _kept(self, job: Job, posts: Sequence[Post], checkpoint: Checkpoint) -> Any:
        """Return the item that is kept, or the one that is made now, and keep it."""
        pipeline = self.pipeline
        if job.params is not self._params:  # most items share those of the pipeline
            self._params = job.params
            self._sender = checkpoint.sender(
                type(pipeline).__name__,
                # A class without a name still tells its items from another's.
                self._name or f"{type(pipeline.generator).__module__}.{pipeline.generator!r}",
                job.params.model_dump(mode="json", exclude_none=True, fallback=repr),
            )
        digest = checkpoint.digest(self._sender, pipeline._sent(job.input))
        # A file that was empty at the start has nothing for anybody.
        result = None if checkpoint.was_empty else await checkpoint.find(digest)
        if result is not None:
            item = pipeline._load(result, self._name)
            # What is kept is told apart by what was sent, so the notes may be another one's.
            return item if job.metadata is None else item.meta(**job.metadata)
        item = await pipeline._process(job, posts, self._request, self._name)
        if not item.failed:
            # What JSON has no form for is better kept as its repr than paid for again.
            await checkpoint.save(digest, as_json(item, fallback=repr, exclude_none=True))
        return item

    def _fail(self, error: Exception, job: Job, number: int) -> Any:
        catching = self._settings.catching
        if not catching.takes(error):
            self._note(error, number)
            raise error
        self._failed += 1
        return self.pipeline._fallen(job, error, catching, self._name)

    def _note(self, error: Exception, number: int) -> None:
        if any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            return  # an error may come to several items, or be raised again
        label = f" of {self.pipeline.label!r}" if self.pipeline.label else ""
        kept = (
            f"finished ones are kept in {self._settings.checkpoint}"
            if self._settings.checkpoint
            else "a batch keeps finished ones with checkpoint=PATH"
        )
        error.add_note(
            f"{_NOTE}item {number}{label} failed; {self._finished} finished, "
            f"{self._failed} failed before it, {self._started} started; {kept}"
        )


def generator_id(generator: Identifiable) -> str | None:
    """Return a generator's identifier; None if it has none that could be written."""
    try:
        return generator.to_identifier()
    except (UnregisteredGeneratorError, InvalidGeneratorError):
        return None


class _Given(NamedTuple):
    """An input with params and notes of its own."""

    input: Any
    params: GenerateParams | None
    metadata: Mapping[str, Any] | None


def joined(
    inputs: Iterable[Any] | AsyncIterable[Any],
    params: Iterable[GenerateParams | None] | None,
    metadata: Iterable[Mapping[str, Any]] | None,
) -> Iterable[Any] | AsyncIterable[Any]:
    """Give each input params and notes of its own, for `Run.fit_and_run`; the shortest ends it."""
    if params is None and metadata is None:
        return inputs
    own = repeat(None) if params is None else params
    notes = repeat(None) if metadata is None else metadata
    if isinstance(inputs, AsyncIterable):
        return _joined_async(inputs, zip(own, notes, strict=False))
    return map(_Given, inputs, own, notes)


async def _joined_async(
    inputs: AsyncIterable[Any],
    others: Iterator[tuple[GenerateParams | None, Mapping[str, Any] | None]],
) -> AsyncGenerator[_Given, None]:
    async for one in inputs:
        for own, notes in others:
            yield _Given(one, own, notes)
            break
        else:
            return
