"""The generator: its fields, and how its model is asked. This is the place to fill in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from rigging import GenerateParams, Message, StopReason, Usage

from mymodel_rigging._threaded import ThreadedGenerator

__all__ = ["MymodelGenerator"]


class MymodelGenerator(ThreadedGenerator):
    """Asks a model of mymodel.

    Attributes:
        model: Which one.
        api_key: The key, if one is needed; it is never shown.
    """

    provider: ClassVar[str] = "mymodel"

    # The parameters that are honoured: `max_tokens`, `stop` and `timeout` by `ThreadedGenerator`,
    # the others by `ask`. Whoever sets another one is warned that it is left out.
    honoured: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "max_tokens", "stop", "seed", "timeout"}
    )

    # Further fields become keys of the identifier: `max_retries: int = 3` is "…,max_retries=5".

    def ask(
        self, prompt: Sequence[Message] | str, params: GenerateParams
    ) -> Iterator[str | Usage | StopReason]:
        """Ask the model for one answer. This runs in a thread, and may block.

        What is heavy is imported in here, so that importing the package costs nothing.

        Args:
            prompt: A conversation, or a text to continue.
            params: The generator's own parameters, with those of the call over them.

        Yields:
            The answer's text as it comes, a token at a time where the model gives it so. A
            `Usage` when it is known: without its `output_tokens`, texts are counted. A
            `StopReason`, if the answer ended by another one than "stop".

        Raises:
            GenerationError: If it failed; the subclasses in `rigging.error` say how.
        """
        # Fill in from here:
        raise NotImplementedError(f"{self.provider} asks no model yet: fill in `ask` in {__file__}")
        # to here.
