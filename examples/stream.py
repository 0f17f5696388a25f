"""Text as it comes, then the finished chat.

    python examples/stream.py [IDENTIFIER]

Leaving the loop early ends the request, and whoever waits takes its place.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

import rigging as rg
from rigging.testing import EchoGenerator


class Typewriter(EchoGenerator):
    """Repeats what it is told, word by word."""

    async def stream_messages(
        self, messages: Sequence[rg.Message], params: rg.GenerateParams
    ) -> AsyncIterator[str | rg.GeneratedMessage]:
        async for piece in super().stream_messages(messages, params):
            if isinstance(piece, str):
                for word in piece.split(" "):
                    await asyncio.sleep(0.02)
                    yield word + " "
            else:
                yield piece


async def main(generator: rg.Generator) -> None:
    """Print each piece at once, and at the end what the chat says of itself."""
    pieces = 0
    async for piece in generator.chat("Tell me a short story about a boat.").stream():
        if isinstance(piece, str):
            pieces += 1
            print(piece, end="", flush=True)
        else:
            print(f"\n{pieces} pieces, {piece.stop_reason}, {piece.usage}")


if __name__ == "__main__":
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else Typewriter(model="any")
    asyncio.run(main(generator))
