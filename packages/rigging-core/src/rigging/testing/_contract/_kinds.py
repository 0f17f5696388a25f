"""The two kinds of request: conversations and texts, asked in the same way, whole or streamed.

What comes back is looked at here, so that also what is no answer at all fails a test with a
sentence of the contract.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from rigging.error import RiggingError
from rigging.message import Message
from rigging.result import GeneratedMessage, GeneratedText, Usage

if TYPE_CHECKING:
    from rigging.generator import Generator
    from rigging.params import GenerateParams

__all__ = ["KINDS", "WAYS", "Kind", "Result", "Way", "errors_of_ours", "raised", "usage_of"]

Result: TypeAlias = GeneratedMessage | GeneratedText

#: How one thing is asked: by ``generate_…`` or by ``stream_…``.
Way: TypeAlias = Literal["call", "stream"]

WAYS: Final[tuple[Way, ...]] = ("call", "stream")

_OURS: Final = "a failure is a rigging.error.GenerationError"


@dataclass(frozen=True)
class Kind:
    """One of the two things that a generator does, by ``generate_…`` and ``stream_…``.

    Attributes:
        name: ``messages`` or ``texts``.
        result: What comes of a request.
    """

    name: str
    result: type[GeneratedMessage] | type[GeneratedText]

    def inputs(self, prompts: Sequence[str]) -> list[Any]:
        """Return prompts as what ``generate_…`` takes."""
        if self.result is GeneratedMessage:
            return [[Message("user", prompt)] for prompt in prompts]
        return list(prompts)

    async def attempt(
        self, generator: Generator, inputs: Sequence[Any], params: Sequence[GenerateParams]
    ) -> Sequence[Any]:
        """Make one call, and let pass whatever it raises."""
        name = f"generate_{self.name}"
        call = getattr(generator, name)(inputs, params)
        assert inspect.isawaitable(call), (
            f"{name} is a coroutine function (`async def`): here it returned a "
            f"{type(call).__name__} at once"
        )
        results = await call
        is_list = isinstance(results, Sequence) and not isinstance(results, str)
        assert is_list, (
            f"{name} returns a list, one result per input: here it returned a "
            f"{type(results).__name__}"
        )
        found: Sequence[Any] = results
        return found

    async def call(
        self, generator: Generator, prompts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[Any]:
        """Make one call with all prompts, which raises nothing."""
        try:
            return await self.attempt(generator, self.inputs(prompts), params)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"generate_{self.name} raised {error!r}: a failure is an exception in the list, "
                f"and that of its item only"
            ) from error

    async def ask(self, generator: Generator, prompt: str, params: GenerateParams) -> Result:
        """Ask one thing; its failure is raised, however it was told."""
        name = f"generate_{self.name}"
        with errors_of_ours(name):
            results = await self.attempt(generator, self.inputs([prompt]), [params])
            assert len(results) == 1, f"one request gives one result, not {len(results)}"
            (result,) = results
            if isinstance(result, Exception):
                raise result
            if isinstance(result, BaseException):  # which, raised, would end the test itself
                text = f"{name} failed with {result!r}: {_OURS}"
                raise AssertionError(text) from result  # noqa: TRY004 (as any broken rule)
        assert isinstance(result, self.result), (
            f"a result of {name} is a {self.result.__name__}, not {result!r}"
        )
        return result

    async def stream(self, generator: Generator, prompt: str, params: GenerateParams) -> list[Any]:
        """Ask one thing, and return all that is streamed: at least the result, at the end."""
        with errors_of_ours(f"stream_{self.name}"):
            items = await self.read(generator, prompt, params)
        last = items[-1] if items else "nothing"
        assert isinstance(last, self.result), (
            f"the last item of a stream is the finished {self.result.__name__}: here a stream "
            f"ended with {last!r}"
        )
        return items

    async def read(self, generator: Generator, prompt: str, params: GenerateParams) -> list[Any]:
        """Ask one thing, and return all that is streamed, whatever it is."""
        async with self.streaming(generator, prompt, params) as stream:
            return [item async for item in stream]

    @contextlib.asynccontextmanager
    async def streaming(
        self, generator: Generator, prompt: str, params: GenerateParams
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Ask one thing, and give its stream, which is closed when it is left."""
        name, (given,) = f"stream_{self.name}", self.inputs([prompt])
        stream = getattr(generator, name)(given, params)
        if inspect.iscoroutine(stream):
            stream.close()  # or Python complains that nobody awaited it
        assert isinstance(stream, AsyncIterator), (
            f"{name} is an async generator (`async def` with `yield`): here it returned a "
            f"{type(stream).__name__}"
        )
        try:
            yield stream
        finally:
            close = getattr(stream, "aclose", None)  # an iterator may have none
            if close is not None:
                await close()

    async def answer(
        self, way: Way, generator: Generator, prompt: str, params: GenerateParams
    ) -> Result:
        """Ask one thing in one of the two ways, and return its result."""
        if way == "call":
            return await self.ask(generator, prompt, params)
        *_, result = await self.stream(generator, prompt, params)
        return cast("Result", result)


KINDS: Final = (Kind("messages", GeneratedMessage), Kind("texts", GeneratedText))


def usage_of(result: object) -> Usage:
    """Return a result's usage, which must be there."""
    assert isinstance(result, Result), f"a request that has to succeed gave {result!r}"
    assert result.usage is not None, "a result says what it took: `usage` is filled"
    return result.usage


def raised(error: BaseException) -> BaseException:
    """Return what the generator itself raised; a sentence about what it returned goes on."""
    if not isinstance(error, AssertionError):
        return error
    if error.__cause__ is None:
        raise error
    return error.__cause__


@contextlib.contextmanager
def errors_of_ours(name: str) -> Iterator[None]:
    """Let pass what a request may fail with, or be refused; anything else breaks a rule."""
    try:
        yield
    except (RiggingError, NotImplementedError, AssertionError):
        raise
    except Exception as error:
        raise AssertionError(f"{name} failed with {error!r}: {_OURS}") from error
