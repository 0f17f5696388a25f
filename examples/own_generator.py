"""A generator of your own: one class, one method, and a name for it.

    python examples/own_generator.py [IDENTIFIER]

It works wherever the others do: in identifiers, batches, checkpoints. `docs/write-a-provider.md`
makes a package of such a class.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import rigging as rg


class Shout(rg.Generator):
    """Says it louder.

    Attributes:
        mark: What a shout ends with.
    """

    mark: str = "!"

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        return [
            rg.GeneratedMessage.from_text(conversation[-1].text.upper() + self.mark)
            for conversation in messages
        ]


async def main(identifier: str) -> None:
    """Ask for it by name, and print where each answer came from."""
    generator = rg.get_generator(identifier)
    for chat in await generator.chat().run_batch(["hello", "good bye"]):
        print(f"{chat.generator_id}: {chat.last.text}")


if __name__ == "__main__":
    rg.register_generator("shout", Shout)
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else "shout!any,mark=?!"))
