"""What chat and completion pipelines have in common: building, running, catching.

`Pipeline` is a frozen dataclass; every builder returns a changed copy. Any number of
items goes one way: the workers of a `Pool` take items, a `Run` and `Pipeline._process`
take each to its finished chat or completion, and the generator's scheduler sends what
waits together. So `run` is a batch of one, and a nested run joins the next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import traceback
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    TypeVar,
)

from rigging._building import build, load_plugins
from rigging._item import Item, ItemList
from rigging._observing import Observer, closing, ended_with, observer
from rigging._pool import AsTheyCome, InOrder, InOrderAtTheEnd, Pool
from rigging._run import (
    Catching,
    Identifiable,
    Job,
    OnFailed,
    Post,
    Request,
    Run,
    Settings,
    generator_id,
    joined,
    nesting,
)
from rigging._scheduler import Scheduler, Schedulers, bound, connections, is_cancelled
from rigging._sync import iterate_sync, run_sync
from rigging.error import (
    InvalidGeneratorError,
    InvalidParamsError,
    MaxDepthError,
    MaxRoundsError,
    RiggingError,
    RiggingWarning,
)
from rigging.params import GenerateParams, no_params

if TYPE_CHECKING:
    from rigging.events import Operation

__all__ = ["OnFailed", "Pipeline", "Schedulable", "maybe_await", "shortened"]

InputT = TypeVar("InputT")  # what is sent: a conversation, or a text
ResultT = TypeVar("ResultT")  # what the generator returns
ItemT = TypeVar("ItemT", bound=Item)  # what the user gets: a chat, or a completion
ListT = TypeVar("ListT", bound=ItemList[Any])
SelfT = TypeVar("SelfT", bound="Pipeline[Any, Any, Any, Any]")

_SHOWN: Final = 60  # characters of a text in a repr
# Items in progress at once, where the caller does not say: enough to fill the calls of an
# engine. More would only cost memory.
_WINDOW: Final = 256
# The least for a service: callbacks take their time, too.
_LEAST_WINDOW: Final = 64


class Schedulable(Identifiable, Protocol):
    """A generator, as far as all pipelines need it."""

    @property
    def schedulers(self) -> Schedulers:
        """Where its requests wait for each other."""
        ...


class Then(NamedTuple):
    """A callback for each finished item, and how deep what it returns may nest."""

    callback: Callable[[Any], Any]
    max_depth: int


class Until(NamedTuple):
    """A callback that says whether to generate again, and how often at most."""

    callback: Callable[[Any], Any]
    max_rounds: int


@dataclass(frozen=True, repr=False)
class Pipeline(Generic[InputT, ResultT, ItemT, ListT]):
    """What is sent to a generator, and what becomes of the answers. Immutable."""

    generator: Any
    params: GenerateParams = field(default_factory=no_params, kw_only=True)
    metadata: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    catching: Catching = field(default=Catching(), kw_only=True)
    wraps: tuple[Callable[[Any], Any], ...] = field(default=(), kw_only=True)
    untils: tuple[Until, ...] = field(default=(), kw_only=True)
    thens: tuple[Then, ...] = field(default=(), kw_only=True)
    maps: tuple[Callable[[Any], Any], ...] = field(default=(), kw_only=True)
    watches: tuple[Callable[[Any], Any], ...] = field(default=(), kw_only=True)

    _list_type: ClassVar[type[ItemList[Any]]] = ItemList
    _operation: ClassVar[Operation]

    def __repr__(self) -> str:
        name = generator_id(self.generator) or type(self.generator).__name__
        return f"<{type(self).__name__} with {shortened(name)}: {self._summary()}, {self.params!r}>"

    def _with(self: SelfT, **changes: Any) -> SelfT:
        """Return a copy with other fields."""
        # `dataclasses.replace` sets every field by itself, which costs more than a request.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__, **changes)
        return copied

    @property
    def _prepares(self) -> bool:
        """Whether `_prepared` does anything."""
        return False

    # -- Building ------------------------------------------------------------------------

    def with_(self: SelfT, params: GenerateParams | None = None, **overrides: Any) -> SelfT:
        """Return a pipeline with other generation parameters.

        Args:
            params: Override the pipeline's, field by field.
            overrides: Fields of `GenerateParams`; they win over ``params``.

        Raises:
            InvalidParamsError: If a field is unknown or a value does not fit.
        """
        more = GenerateParams(**overrides) if overrides else None
        return self._with(params=self.params.merge_with(params, more))

    def clone(self: SelfT) -> SelfT:
        """Return a copy; since pipelines do not change, the pipeline itself would do."""
        return self._with()

    def name(self: SelfT, label: str) -> SelfT:
        """Return a pipeline with a name, which notes and progress bars show."""
        return self._with(label=label)

    def meta(self: SelfT, **metadata: Any) -> SelfT:
        """Return a pipeline that gives its results these notes as metadata."""
        return self._with(metadata={**self.metadata, **metadata})

    def wrap(self: SelfT, decorator: Callable[[Any], Any]) -> SelfT:
        """Return a pipeline that sends each request through a decorator.

        The decorator gets an ``async def request(input, params)`` that sends one request
        and raises its failure, so libraries such as backoff, tenacity and stamina retry
        that request alone. One that sleeps between attempts holds no place in any call.

        Args:
            decorator: For coroutine functions; the one added last is outermost.
        """
        return self._with(wraps=(*self.wraps, decorator))

    def then(self: SelfT, callback: Callable[[ItemT], Any], *, max_depth: int = 20) -> SelfT:
        """Return a pipeline that calls back for each result as soon as it is there.

        Args:
            callback: Plain or a coroutine function. It returns None to keep the result,
                another result to replace it, or a pipeline, whose result replaces it.
            max_depth: How deep pipelines may lead to pipelines.
        """
        return self._with(thens=(*self.thens, Then(callback, max_depth)))

    def map(self: SelfT, callback: Callable[[ListT], Any]) -> SelfT:
        """Return a pipeline that calls back with all results of a run, after every ``then``.

        Args:
            callback: Plain or a coroutine function. It returns a list that replaces the
                results, or None to keep them.
        """
        return self._with(maps=(*self.maps, callback))

    def watch(self: SelfT, *callbacks: Callable[[ItemT], Any]) -> SelfT:
        """Return a pipeline that shows each finished result, failed ones too, to callbacks.

        Args:
            callbacks: Plain or coroutine functions. What they return is ignored, and
                one that raises is warned about and does not harm the run.
        """
        return self._with(watches=(*self.watches, *callbacks))

    def until(self: SelfT, callback: Callable[[ItemT], Any], *, max_rounds: int = 5) -> SelfT:
        """Return a pipeline that generates again until a callback is content.

        Args:
            callback: Plain or a coroutine function. It returns None or False when it is
                content, True to have the same input answered again, and for a chat also
                a str, message or list of these to go on with.
            max_rounds: The most further rounds; `MaxRoundsError` after these.
        """
        return self._with(untils=(*self.untils, Until(callback, max_rounds)))

    def catch(
        self: SelfT,
        *errors: type[BaseException],
        on_failed: OnFailed | None = None,
        exclude: Sequence[type[BaseException]] = (),
    ) -> SelfT:
        """Return a pipeline that takes more errors, or fewer, for failures of one item.

        Args:
            errors: Added to `RiggingError` and pydantic's ``ValidationError``.
            on_failed: ``raise`` ends the run with the first failure, ``skip`` leaves
                failed items out, ``include`` keeps them, with their ``error``.
            exclude: Errors that end the run all the same.
        """
        old = self.catching
        return self._with(
            catching=Catching(
                (*old.errors, *errors), (*old.exclude, *exclude), on_failed or old.on_failed
            ),
        )

    # -- Running -------------------------------------------------------------------------

    async def run(self, *, on_failed: OnFailed | None = None) -> ItemT:
        """Generate once.

        Args:
            on_failed: ``raise`` or ``include``; by default what `catch` has set.
                ``skip`` counts as ``include``, since there is one result to give.

        Raises:
            RiggingError: If the request cannot be sent, or failed at the provider; see
                `rigging.error` for the tree.
        """
        # In the caller's own task: a pool for one item would cost more than the item.
        run = Run(self, self._settings(on_failed, one=True))
        # What the item keeps for itself is made before the wait, while caches are warm.
        return await self._only(await run(Job(self._input(), self.params.unshared())))

    async def run_many(
        self,
        count: int,
        *,
        params: Sequence[GenerateParams] | None = None,
        on_failed: OnFailed | None = None,
        window: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> ListT:
        """Generate several times from the same input.

        Args:
            count: How many times, 0 or more.
            params: One per generation; override the pipeline's.
            on_failed: What becomes of failed items; by default what `catch` has set.
            window: The most items in progress at once.
            checkpoint: A file that keeps finished results, and gives them back when the
                same call is made again.
            progress: Show a bar (needs the extra ``progress``).

        Returns:
            The results, in order.

        Raises:
            InvalidParamsError: If ``count`` is no number, or ``params`` has another length.
            RiggingError: If a request cannot be sent, or the first failure of one.
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidParamsError(f"expected how many to generate, 0 or more, got {count!r}")
        settings = self._settings(on_failed, window, checkpoint, progress=progress)
        if not count:
            return self._collect([])
        given = self._input()
        own = _params_list(params)
        if own is not None and len(own) != count:
            raise InvalidParamsError(
                f"got {len(own)} params for {count} generations: give one each, or none at all"
            )
        return await self._run(_jobs(self.params, [given] * count, own), settings)

    async def run_batch(
        self,
        inputs: Sequence[Any],
        *,
        params: Sequence[GenerateParams] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        on_failed: OnFailed | None = None,
        window: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> ListT:
        """Generate for many inputs, each added to what the pipeline holds.

        Args:
            inputs: What to add for each item. One input goes with each of many params,
                and each of many inputs with one params; else their lengths are equal.
            params: Override the pipeline's.
            metadata: Notes for each result, one per input.
            on_failed: What becomes of failed items; by default what `catch` has set.
            window: The most items in progress at once.
            checkpoint: A file that keeps finished results, and gives them back when the
                same call is made again.
            progress: Show a bar (needs the extra ``progress``).

        Returns:
            The results, in the order of the inputs.

        Raises:
            InvalidParamsError: If ``inputs`` is no list, or the lengths do not fit.
            RiggingError: If a request cannot be sent, or the first failure of one.
        """
        if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Collection):
            raise InvalidParamsError(
                f"run_batch takes a list of inputs, got {type(inputs).__name__}: put it into a "
                f"list, or use iter_batch for iterators of unknown length"
            )
        settings = self._settings(on_failed, window, checkpoint, progress=progress)
        fitted = [self._fit(one) for one in inputs]
        own = _params_list(params)
        if own is not None and len(own) != len(fitted):
            if len(fitted) == 1:
                fitted *= len(own)
            elif len(own) == 1:
                own *= len(fitted)
            else:
                raise InvalidParamsError(
                    f"got {len(own)} params for {len(fitted)} inputs: give one for all, or one each"
                )
        jobs = _jobs(self.params, fitted, own)
        if metadata is not None:
            if len(metadata) != len(jobs):
                raise InvalidParamsError(
                    f"got {len(metadata)} metadata for {len(jobs)} items: give one each"
                )
            jobs = [job._replace(metadata=notes) for job, notes in zip(jobs, metadata, strict=True)]
        return await self._run(jobs, settings)

    async def iter_batch(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        params: Iterable[GenerateParams | None] | None = None,
        metadata: Iterable[Mapping[str, Any]] | None = None,
        ordered: bool = False,
        on_failed: OnFailed | None = None,
        window: int | None = None,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> AsyncGenerator[ItemT, None]:
        """Generate for a stream of inputs, and give each result when it is finished.

        Memory is bounded by the window and not by the inputs, which may be endless and
        may be asynchronous; whoever iterates slowly slows their source down.

        Args:
            inputs: What to add to what the pipeline holds, for each item.
            params: Override the pipeline's, one for each input, or None where there are none
                of its own; the shorter of both ends it.
            metadata: Notes for the result of each input; likewise. They tell results apart,
                also those that come out of a checkpoint.
            ordered: Give results in the order of the inputs, and not as they finish.
            on_failed: What becomes of failed items; by default what `catch` has set.
            window: The most items in progress at once.
            checkpoint: A file that keeps finished results, and gives them back when the
                same call is made again.
            progress: Show a bar (needs the extra ``progress``).

        Yields:
            Results as they finish.

        Raises:
            InvalidParamsError: If the pipeline has a ``map``, which needs all results.
            RiggingError: If a request cannot be sent, or the first failure of one.
        """
        if isinstance(inputs, (str, bytes, Mapping)):
            raise InvalidParamsError(
                f"iter_batch takes an iterable of inputs, got {type(inputs).__name__}: "
                f"put it into a list"
            )
        if self.maps:
            raise InvalidParamsError(
                "map() needs all results at once, which iter_batch never has: use run_batch"
            )
        if not isinstance(inputs, (Iterable, AsyncIterable)):
            raise InvalidParamsError(
                f"iter_batch takes an iterable of inputs, got {type(inputs).__name__}"
            )
        settings = self._settings(on_failed, window, checkpoint, progress=progress)
        async with contextlib.AsyncExitStack() as stack:
            run = await Run.entered(stack, self, settings, inputs)
            pool = Pool(
                run.fit_and_run,
                joined(inputs, params, metadata),
                window=settings.window,
                results=InOrder() if ordered else AsTheyCome(),
                spared=run.answered,
            )
            async for item in await stack.enter_async_context(pool):
                if item is not None:
                    yield item

    async def run_over(
        self,
        *generators: Any,
        include_original: bool = True,
        on_failed: OnFailed | None = None,
    ) -> ListT:
        """Generate once with each of several generators.

        Args:
            generators: Generators, or identifiers.
            include_original: Whether the pipeline's own generator is one of them, the first.
            on_failed: What becomes of failed items; by default what `catch` has set.

        Returns:
            The results, in the order of the generators.

        Raises:
            InvalidIdentifierError: If an identifier is malformed.
            RiggingError: If a request cannot be sent, or the first failure of one.
        """
        settings = self._settings(on_failed)
        own = [self.generator] if include_original else []

        async def work(given: Any) -> ItemT | None:
            try:
                pipeline = self._with(generator=_generator_of(given))
            except RiggingError as error:
                if not settings.catching.takes(error):
                    raise
                return self._fallen(Job(self._held(), self.params), error, settings.catching)
            run = Run(pipeline, settings)
            item: ItemT | None = await run(Job(pipeline._input(), pipeline.params))
            return item

        window = max(1, len(own) + len(generators))
        pool = Pool(work, [*own, *generators], window=window, results=InOrderAtTheEnd())
        async with pool as items:
            finished = [item async for item in items if item is not None]
        return await self._mapped(self._collect(finished))

    async def stream(self) -> AsyncGenerator[str | ItemT, None]:
        """Generate once, and give the text as it comes.

        Yields:
            Pieces of the text, then the finished item, after every ``then``.

        Raises:
            InvalidParamsError: If the pipeline has an ``until`` or a ``wrap``, which may
                generate again what was already given away.
            RiggingError: If the request cannot be sent, or failed at the provider.
        """
        if self.untils or self.wraps:
            raise InvalidParamsError(
                "until() and wrap() may generate again what a stream has already given away: "
                "use run()"
            )
        job, posts = await self._prepared(Job(self._input(), self.params))
        name = generator_id(self.generator)
        observer = self._observer(name)
        stream, result = self._stream(job), None
        if observer is not None:
            stream = observer.stream(stream, job.input, job.params)
        async with self._scheduler().place(), closing(stream) as pieces:
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece
                else:
                    result = piece
        result = ended_with(result, self.generator, self._operation)
        item = self._item(job, result, name)
        item = await self._followed(await self._posted(item, posts))
        await self._shown(item)
        yield item

    # -- The same for synchronous callers ------------------------------------------------

    def run_sync(self, *, on_failed: OnFailed | None = None) -> ItemT:
        """`run`, for synchronous callers; works where an event loop runs, too."""
        return run_sync(self.run(on_failed=on_failed))

    def run_many_sync(self, count: int, **options: Any) -> ListT:
        """`run_many`, for synchronous callers; works where an event loop runs, too."""
        return run_sync(self.run_many(count, **options))

    def run_batch_sync(self, inputs: Sequence[Any], **options: Any) -> ListT:
        """`run_batch`, for synchronous callers; works where an event loop runs, too."""
        return run_sync(self.run_batch(inputs, **options))

    def run_over_sync(self, *generators: Any, **options: Any) -> ListT:
        """`run_over`, for synchronous callers; works where an event loop runs, too."""
        return run_sync(self.run_over(*generators, **options))

    def iter_batch_sync(self, inputs: Iterable[Any], **options: Any) -> Iterator[ItemT]:
        """`iter_batch`, for synchronous callers; works where an event loop runs, too."""
        return iterate_sync(self.iter_batch(inputs, **options))

    def stream_sync(self) -> Iterator[str | ItemT]:
        """`stream`, for synchronous callers; works where an event loop runs, too."""
        return iterate_sync(self.stream())

    # -- What chats and completions do each in their way ---------------------------------

    def _input(self) -> InputT:
        """Return what the pipeline itself would send."""
        raise NotImplementedError

    def _fit(self, given: Any) -> InputT:
        """Return what the pipeline would send with one input of a batch added."""
        raise NotImplementedError

    def _sent(self, given: InputT) -> str:
        """Return an input as `rigging._checkpoint.canonical` JSON, without names of ours."""
        raise NotImplementedError

    def _summary(self) -> str:
        """Return what the pipeline holds in a few words."""
        raise NotImplementedError

    def _held(self) -> InputT:
        """Return what the pipeline itself holds, which may not be enough to send."""
        raise NotImplementedError

    def _load(self, text: str, name: str | None) -> ItemT:
        """Return a finished item that was kept as JSON."""
        raise NotImplementedError

    def _failed(self, job: Job, error: BaseException, name: str | None) -> ItemT:
        """Return the item of a request that failed."""
        raise NotImplementedError

    def _scheduler(self) -> Scheduler[InputT, ResultT]:
        """Return where the generator's requests of this kind wait."""
        raise NotImplementedError

    def _item(
        self, job: Job, result: ResultT, name: str | None, previous: ItemT | None = None
    ) -> ItemT:
        """Return the item of a request that was answered, after a previous round or none."""
        raise NotImplementedError

    def _next_input(self, item: ItemT, answer: Any) -> InputT:
        """Return what is sent in another round, after an answer of ``until``."""
        raise NotImplementedError

    def _stream(self, job: Job) -> Any:
        """Return the generator's stream for one request."""
        raise NotImplementedError

    async def _prepared(self, job: Job) -> tuple[Job, Sequence[Post]]:
        """Return a job as it is sent, and what is to happen to its item."""
        return job, ()

    # -- How it runs ---------------------------------------------------------------------

    def _settings(
        self,
        on_failed: OnFailed | None,
        window: int | None = None,
        checkpoint: str | Path | None = None,
        *,
        progress: bool = False,
        one: bool = False,
    ) -> Settings:
        catching = self.catching
        if on_failed is not None:
            catching = replace(catching, on_failed=on_failed)
        if one:
            if catching.on_failed == "skip":
                catching = replace(catching, on_failed="include")
            return Settings(catching, window=1, checkpoint=None, progress=False)
        if window is not None and (not isinstance(window, int) or window < 1):
            raise InvalidParamsError(f"window is at least 1, got {window!r}")
        if window is None:
            window = _window(self.generator)
        path = None if checkpoint is None else Path(checkpoint)
        return Settings(catching, window, path, progress)

    def _observer(self, name: str | None) -> Observer | None:
        """Return what tells plugins of requests; None if there is nobody to tell."""
        load_plugins()
        return observer(self.generator, name, self._operation, self.label)

    def _request(self, name: str | None) -> Request:
        """Return what sends one request, through the decorators of `wrap`."""
        request: Request = self._scheduler().send
        observer = self._observer(name)
        if observer is not None:
            request = observer.observed(request)
        if self.wraps:
            submit = request

            # Decorators look for a coroutine function; a bound method passes too, but
            # some of them set attributes.
            async def request_once(given: Any, params: GenerateParams) -> Any:
                return await submit(given, params)

            request = request_once
            for decorator in self.wraps:
                request = decorator(request)
        return request

    def _params_of(self, job: Job) -> GenerateParams:
        """Return a job's parameters, as those of its item alone."""
        # Where they are not the pipeline's, they were merged for this job.
        return job.params.unshared() if job.params is self.params else job.params

    def _notes(self, job: Job) -> dict[str, Any]:
        """Return notes that are the item's own, all the way down."""
        if not self.metadata and not job.metadata:
            return {}
        return copy.deepcopy({**self.metadata, **(job.metadata or {})})

    def _collect(self, items: list[ItemT]) -> ListT:
        return self._list_type(items)  # type: ignore[return-value]

    async def _run(self, jobs: Sequence[Job], settings: Settings) -> ListT:
        return await self._mapped(await self._unmapped(jobs, settings))

    async def _unmapped(self, jobs: Sequence[Job], settings: Settings) -> ListT:
        async with contextlib.AsyncExitStack() as stack:
            run = await Run.entered(stack, self, settings, jobs)
            results: InOrderAtTheEnd[ItemT | None] = InOrderAtTheEnd()
            pool = Pool(run, jobs, window=settings.window, results=results, spared=run.answered)
            items = await stack.enter_async_context(pool)
            finished = [item async for item in items if item is not None]
        return self._collect(finished)

    async def _mapped(self, items: ListT) -> ListT:
        for callback in self.maps:
            mapped = await maybe_await(callback(items))
            if mapped is not None:
                items = self._collect(list(mapped))
        return items

    async def _only(self, item: ItemT) -> ItemT:
        """Return the one item of a run, after every ``map``."""
        if not self.maps:
            return item
        for mapped in await self._mapped(self._collect([item])):
            return mapped  # type: ignore[no-any-return]
        raise TypeError("map() left no result, and run() has one to return: use run_many(1)")

    async def _process(
        self,
        job: Job,
        posts: Sequence[Post],
        request: Request,
        name: str | None,
    ) -> ItemT:
        """Take one prepared item to its end: through ``until``, posts and ``then``."""
        item = self._item(job, await request(job.input, job.params), name)
        if self.untils:
            item = await self._satisfied(item, job, request, name)
        if posts:
            item = await self._posted(item, posts)
        return await self._followed(item) if self.thens else item

    async def _satisfied(self, item: ItemT, job: Job, request: Request, name: str | None) -> ItemT:
        for until in self.untils:
            for round_ in range(until.max_rounds + 1):
                answer = await maybe_await(until.callback(item))
                if answer is None or answer is False:
                    break
                if round_ == until.max_rounds:
                    raise MaxRoundsError(until.max_rounds, item)
                again = job._replace(input=self._next_input(item, answer))
                result = await request(again.input, again.params)
                item = self._item(again, result, name, item)
        return item

    async def _posted(self, item: ItemT, posts: Sequence[Post]) -> ItemT:
        for post in reversed(posts):
            made = await maybe_await(post(item))
            if not isinstance(made, type(item)):
                raise TypeError(
                    f"a post-transform returns a {type(item).__name__}, got {type(made).__name__}"
                )
            item = made
        return item

    async def _followed(self, item: ItemT) -> ItemT:
        for then in self.thens:
            item = await self._follow(then, item)
        return item

    async def _follow(self, then: Then, item: ItemT) -> ItemT:
        answer = await maybe_await(then.callback(item))
        if answer is None:
            return item
        if isinstance(answer, type(item)):
            return answer
        if not isinstance(answer, type(self)):
            raise TypeError(
                f"a callback of then() returns None, a {type(item).__name__} or a "
                f"{type(self).__name__}, got {type(answer).__name__}"
            )
        depth = nesting.get() + 1
        if depth > then.max_depth:
            raise MaxDepthError(then.max_depth)
        token = nesting.set(depth)
        try:
            followed: ItemT = await answer._nested(shown_by=self.watches)
        finally:
            nesting.reset(token)
        return followed

    async def _nested(self, *, shown_by: Sequence[Callable[[Any], Any]]) -> ItemT:
        """Run once within another run: what that one shows is not shown twice."""
        name = generator_id(self.generator)
        job = Job(self._input(), self.params)
        try:
            job, posts = await self._prepared(job)
            item = await self._process(job, posts, self._request(name), name)
        except Exception as error:
            if not self.catching.takes(error):
                raise
            item = self._kept(job, error, name)
        item = await self._only(item)
        await self._shown(item, [one for one in self.watches if one not in shown_by])
        return item

    def _fallen(
        self, job: Job, error: BaseException, catching: Catching, name: str | None = None
    ) -> ItemT | None:
        """Return what a run gives for a failed item: None if it is skipped."""
        return None if catching.on_failed == "skip" else self._kept(job, error, name)

    def _kept(self, job: Job, error: BaseException, name: str | None) -> ItemT:
        """Return the item that stands for a failure among the results."""
        # What is kept must not hold on to the local variables of an engine.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, MaxRoundsError) and isinstance(error.item, Item):
            return error.item.model_copy(update={"error": error})  # type: ignore[return-value]
        return self._failed(job, error, name)

    async def _shown(
        self, item: ItemT, watches: Sequence[Callable[[Any], Any]] | None = None
    ) -> None:
        for callback in self.watches if watches is None else watches:
            try:
                await maybe_await(callback(item))
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and is_cancelled():
                    raise
                # Who watches harms no run, not even where warnings are errors.
                with contextlib.suppress(RiggingWarning):
                    warnings.warn(
                        f"a watch callback raised {type(error).__name__}: {error}",
                        RiggingWarning,
                        stacklevel=2,
                    )


def _window(generator: Any) -> int:
    """Return how many items in progress keep a generator busy."""
    at_once = connections(generator)
    if at_once is not None:
        # As many again to follow at once: more would wait, and waiting costs, too.
        return max(_LEAST_WINDOW, 2 * at_once)
    # One call's worth more than can be in flight, so that the next is full.
    calls = (bound(generator, "max_calls") or 1) + 1
    return max(_WINDOW, calls * (bound(generator, "batch_size") or 0))


def _generator_of(given: Any) -> Any:
    if isinstance(given, str):
        return build(given)
    if not hasattr(given, "schedulers"):
        raise InvalidGeneratorError(
            f"expected a generator or an identifier, got {type(given).__name__}"
        )
    return given


async def maybe_await(value: Any) -> Any:
    """Return what a callback returned, plain or as a coroutine."""
    return await value if inspect.isawaitable(value) else value


def shortened(text: str) -> str:
    """Return the beginning of a text, fit for a repr."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _params_list(params: Sequence[GenerateParams] | None) -> list[GenerateParams] | None:
    if isinstance(params, GenerateParams):
        raise InvalidParamsError(
            "params are a list, one for each generation: for all alike, use with_(params)"
        )
    return None if params is None else list(params)


def _jobs(
    base: GenerateParams, inputs: Sequence[Any], own: Sequence[GenerateParams] | None
) -> list[Job]:
    if own is None:
        return [Job(one, base) for one in inputs]
    return [Job(one, base.merge_with(params)) for one, params in zip(inputs, own, strict=True)]
