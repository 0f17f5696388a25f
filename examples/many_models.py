"""One prompt over many models.

    python examples/many_models.py [IDENTIFIER …]

A model that fails is shown as that, and the others go on.
"""

from __future__ import annotations

import asyncio
import sys

import rigging as rg
from rigging.testing import EchoGenerator, FailingGenerator


async def main(*identifiers: str) -> None:
    """Ask each model once; one that fails is shown as that, and the others go on."""
    first, *others = identifiers
    pipeline = rg.get_generator(first).chat("Name a colour.").with_(temperature=0)

    chats = await pipeline.run_over(*others, on_failed="include")
    for identifier, chat in zip(identifiers, chats, strict=True):
        answer = f"failed: {chat.error}" if chat.failed else chat.last.text
        print(f"{identifier:24} {answer}")


if __name__ == "__main__":
    rg.register_generator("echo", EchoGenerator)
    rg.register_generator("failing", FailingGenerator)
    asyncio.run(main(*(sys.argv[1:] or ["echo!small,max_tokens=1", "echo!large", "failing!any"])))
