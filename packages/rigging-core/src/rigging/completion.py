"""Completions: texts that a generator continued, and the pipeline that makes them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from rigging._checkpoint import canonical
from rigging._item import Item, ItemList, summed
from rigging._pipeline import Pipeline, Schedulable, shortened
from rigging._template import applied
from rigging.error import InvalidMessageError
from rigging.result import GeneratedText

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from rigging._run import Job
    from rigging._scheduler import Scheduler
    from rigging.events import Operation
    from rigging.params import GenerateParams

__all__ = ["Completion", "CompletionList", "CompletionPipeline", "TextGenerator"]


class TextGenerator(Schedulable, Protocol):
    """What a `CompletionPipeline` needs of a generator."""

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text."""
        ...

    def stream_texts(self, text: str, params: GenerateParams) -> AsyncIterator[str | GeneratedText]:
        """Continue one text, piece by piece, and give the result as the last item."""
        ...


class Completion(Item):
    """A text with what a generator wrote after it.

    Attributes:
        text: The prompt.
        generated: What followed it, without the prompt; empty if it failed.
        stop_reason: Why the generation ended.
        usage: Tokens taken, summed over rounds, if known.
        params: The parameters that the pipeline passed; the generator's own are in
            ``generator_id``.
        generator_id: The identifier of the generator, never with a key; None if its
            class is registered under no provider name.
        extra: What else the backend reported.
        metadata: The caller's own notes.
        error: Why it failed, if it did and the run includes failures.
        timestamp: When the completion was made, in UTC.
        uuid: Names this completion.
    """

    text: str
    generated: str = ""

    def __repr__(self) -> str:
        by = self.generator_id or "an unnamed generator"
        said = (
            f"failed, {shortened(str(self.error))}"
            if self.failed
            else repr(shortened(self.generated))
        )
        return f"<Completion by {shortened(by)}: {shortened(self.text)!r} → {said}>"

    def _repr_html_(self) -> str:
        """Show the text in a notebook, what was generated in bold."""
        text, generated = html.escape(self.text), html.escape(self.generated)
        failed = f"<p>failed: {html.escape(str(self.error))}</p>" if self.failed else ""
        return f"<p style='white-space:pre-wrap'>{text}<b>{generated}</b></p>{failed}"

    @property
    def all(self) -> str:
        """The prompt and what followed it."""
        return self.text + self.generated

    def restart(self, *, include_all: bool = False) -> CompletionPipeline:
        """Return the pipeline that made this completion, with its callbacks, as it began.

        A completion that was read from JSON gets its generator back by ``generator_id``.

        Args:
            include_all: Whether to keep what was generated, too.

        Raises:
            InvalidGeneratorError: If the completion does not know what made it.
        """
        pipeline = self.maker or CompletionPipeline(self.rebuilt())
        return cast("CompletionPipeline", pipeline)._with(
            text=self.all if include_all else self.text,
            params=self.params,
            metadata=self.metadata,
        )

    def fork(self, text: str, *, include_all: bool = False) -> CompletionPipeline:
        """Return `restart`, with text added."""
        return self.restart(include_all=include_all).add(text)

    def continue_(self, text: str = "") -> CompletionPipeline:
        """Return a pipeline that goes on from the end of what was generated."""
        return self.fork(text, include_all=True)


class CompletionList(ItemList[Completion]):
    """Completions in the order of their inputs."""


@dataclass(frozen=True, repr=False)
class CompletionPipeline(Pipeline[str, GeneratedText, Completion, CompletionList]):
    """A text to be continued by a generator. Immutable: each method returns a new one.

    Made by `Generator.complete`.

    Attributes:
        generator: What continues the text.
        text: The prompt, sent exactly as it is.
        params: Override the generator's own, field by field.

    Example:
        >>> import rigging as rg
        >>> pipeline = rg.testing.EchoGenerator(model="echo").complete("Once upon a time")
        >>> pipeline.run_sync().generated
        'Once upon a time'
    """

    generator: TextGenerator
    text: str = ""

    _list_type: ClassVar[type[ItemList[Any]]] = CompletionList
    _operation: ClassVar[Operation] = "completion"

    def add(self, text: str) -> CompletionPipeline:
        """Return a pipeline with this text behind what it has."""
        return self._with(text=self._fit(text))

    def fork(self, text: str) -> CompletionPipeline:
        """Return a pipeline with this text behind what it has; the same as `add`."""
        return self.add(text)

    def apply(self, **values: Any) -> CompletionPipeline:
        """Return a pipeline with ``$name`` replaced; unknown names are left alone."""
        return self._with(text=applied(self.text, values))

    # -- What the base leaves open -------------------------------------------------------

    def _input(self) -> str:
        return self.text

    def _fit(self, given: Any) -> str:
        if not isinstance(given, str):
            raise InvalidMessageError(
                f"a completion continues a str, got {type(given).__name__}; "
                f"conversations go to chat()"
            )
        return self.text + given

    def _sent(self, given: str) -> str:
        return canonical(given)

    def _summary(self) -> str:
        return repr(shortened(self.text))

    def _held(self) -> str:
        return self.text

    def _load(self, text: str, name: str | None) -> Completion:
        completion = Completion.model_validate_json(text)
        return completion.made_by(self) if completion.generator_id == name else completion

    def _failed(self, job: Job, error: BaseException, name: str | None) -> Completion:
        return Completion(
            text=job.input,
            error=error,
            params=self._params_of(job),
            generator_id=name,
            metadata=self._notes(job),
        ).made_by(self)

    def _scheduler(self) -> Scheduler[str, GeneratedText]:
        generator = self.generator
        return generator.schedulers.get(generator, generator.generate_texts, GeneratedText)

    def _item(
        self,
        job: Job,
        result: GeneratedText,
        name: str | None,
        previous: Completion | None = None,
    ) -> Completion:
        return Completion.of_result(
            result,
            usage=summed(previous, result.usage),
            params=self._params_of(job),
            generator_id=name,
            metadata=self._notes(job),
            pipeline=self,
            text=job.input,
            generated=result.text,
        )

    def _next_input(self, item: Completion, answer: Any) -> str:
        if answer is not True:
            raise TypeError(
                f"a callback of until() for completions returns True, False or None, "
                f"got {type(answer).__name__}"
            )
        return item.text

    def _stream(self, job: Job) -> Any:
        return self.generator.stream_texts(job.input, job.params)
