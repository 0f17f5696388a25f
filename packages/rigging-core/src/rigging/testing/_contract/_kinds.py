"""The two kinds of request: conversations and texts, asked in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rigging.message import Message
from rigging.result import GeneratedMessage, GeneratedText, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.generator import Generator
    from rigging.params import GenerateParams

__all__ = ["KINDS", "Kind", "Result", "usage_of"]

Result: TypeAlias = GeneratedMessage | GeneratedText


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

    async def call(
        self, generator: Generator, prompts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[Any]:
        """Make one call with all prompts."""
        generate = getattr(generator, f"generate_{self.name}")
        results: Sequence[Any] = await generate(self.inputs(prompts), params)
        return results

    async def ask(self, generator: Generator, prompt: str, params: GenerateParams) -> Result:
        """Ask one thing; its failure is raised, however it was told."""
        results = await self.call(generator, [prompt], [params])
        assert len(results) == 1, f"one request gives one result, not {len(results)}"
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        assert isinstance(result, self.result), (
            f"a result of generate_{self.name} is a {self.result.__name__}, not {result!r}"
        )
        return result

    async def stream(self, generator: Generator, prompt: str, params: GenerateParams) -> list[Any]:
        """Ask one thing, and return all that is streamed."""
        (given,) = self.inputs([prompt])
        stream = getattr(generator, f"stream_{self.name}")
        return [item async for item in stream(given, params)]


KINDS: Final = (Kind("messages", GeneratedMessage), Kind("texts", GeneratedText))


def usage_of(result: object) -> Usage:
    """Return a result's usage, which must be there."""
    assert isinstance(result, Result), f"a request that has to succeed gave {result!r}"
    assert result.usage is not None, "a result says what it took: `usage` is filled"
    return result.usage
