"""Completions: texts that a generator continued, and the pipeline that makes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field

from rigging._pipeline import Identifiable, generator_id, params_per_item, shortened
from rigging._scheduler import dispatch
from rigging.params import GenerateParams
from rigging.result import GeneratedText, StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Completion", "CompletionPipeline", "TextGenerator"]


class TextGenerator(Identifiable, Protocol):
    """What a `CompletionPipeline` needs of a generator."""

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text."""
        ...


class Completion(BaseModel):
    """A text with what a generator wrote after it.

    Attributes:
        text: The prompt.
        generated: What followed it, without the prompt.
        stop_reason: Why the generation ended.
        usage: Tokens taken, if known.
        params: The parameters that the pipeline passed; the generator's own are in
            ``generator_id``.
        generator_id: The identifier of the generator, never with a key; None if its
            class is registered under no provider name.
        extra: What else the backend reported.
        metadata: The caller's own notes.
        timestamp: When the completion was made, in UTC.
        uuid: Names this completion.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    generated: str
    stop_reason: StopReason = StopReason.unknown
    usage: Usage | None = None
    params: GenerateParams = Field(default_factory=GenerateParams)
    generator_id: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))
    uuid: UUID = Field(default_factory=uuid4)

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return (
            f"<Completion by {self.generator_id or 'an unnamed generator'}: "
            f"{shortened(self.text)!r} → {shortened(self.generated)!r}>"
        )

    @property
    def all(self) -> str:
        """The prompt and what followed it."""
        return self.text + self.generated


@dataclass(frozen=True)
class CompletionPipeline:
    """A text to be continued by a generator. Immutable: each method returns a new one.

    Made by `Generator.complete`.

    Attributes:
        generator: What continues the text.
        text: The prompt, sent exactly as it is.
        params: Override the generator's own, field by field.

    Example:
        >>> import asyncio, rigging as rg
        >>> pipeline = rg.testing.EchoGenerator(model="echo").complete("Once upon a time")
        >>> asyncio.run(pipeline.run()).generated
        'Once upon a time'
    """

    generator: TextGenerator
    text: str
    params: GenerateParams = field(default_factory=GenerateParams)

    def with_(self, params: GenerateParams | None = None, **overrides: Any) -> CompletionPipeline:
        """Return a pipeline with other generation parameters.

        Args:
            params: Override the pipeline's, field by field.
            overrides: Fields of `GenerateParams`; they win over ``params``.

        Raises:
            InvalidParamsError: If a field is unknown or a value does not fit.
        """
        return replace(self, params=self.params.merge_with(params, GenerateParams(**overrides)))

    async def run(self) -> Completion:
        """Generate one continuation.

        Raises:
            GenerationError: If the provider failed; see `rigging.error` for the tree.
        """
        return (await self._run([self.params]))[0]

    async def run_many(
        self, count: int, *, params: Sequence[GenerateParams] | None = None
    ) -> list[Completion]:
        """Generate several continuations of the same text.

        Args:
            count: How many, 0 or more.
            params: One per continuation; override the pipeline's.

        Returns:
            ``count`` completions.

        Raises:
            InvalidParamsError: If ``count`` is no number of continuations, or ``params``
                has another length.
            GenerationError: If the provider failed; the first failure counts.
        """
        return await self._run(params_per_item(self.params, count, params))

    async def _run(self, params: Sequence[GenerateParams]) -> list[Completion]:
        results = await dispatch(
            self.generator,
            self.generator.generate_texts,
            [self.text] * len(params),
            params,
            GeneratedText,
        )
        name = generator_id(self.generator)
        return [
            Completion(
                text=self.text,
                generated=result.text,
                stop_reason=result.stop_reason,
                usage=result.usage,
                extra=result.extra,
                params=own,
                generator_id=name,
            )
            for result, own in zip(results, params, strict=True)
        ]
