"""A good third-party provider, as its author would write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rigging import GeneratedMessage, GenerateParams, Generator, Message

__all__ = ["AcmeGenerator"]


class AcmeGenerator(Generator):
    """Repeats what it is told, aloud if wanted."""

    plugin_api: ClassVar[int] = 1

    shout: bool = False
    marks: list[str] = []

    async def generate_messages(
        self,
        messages: Sequence[Sequence[Message]],
        params: Sequence[GenerateParams],
    ) -> Sequence[GeneratedMessage | BaseException]:
        texts = [conversation[-1].text + "".join(self.marks) for conversation in messages]
        return [GeneratedMessage.from_text(text.upper() if self.shout else text) for text in texts]
