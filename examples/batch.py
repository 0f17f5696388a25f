"""A batch that stops half-way, and goes on from its checkpoint.

    python examples/batch.py [IDENTIFIER [CHECKPOINT]]

A listener counts what is really sent: the second run asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import rigging as rg
from rigging.events import RequestStarted
from rigging.testing import EchoGenerator

QUESTIONS = [f"What is {number} times 7?" for number in range(1, 7)]


class Sent:
    """Counts requests."""

    count = 0

    def rigging_request_started(self, event: RequestStarted) -> None:
        self.count += 1


async def main(identifier: str, checkpoint: Path) -> None:
    """Run three of the questions, then all of them."""
    sent = Sent()
    pipeline = rg.get_generator(identifier).chat(rg.Message("system", "Answer with a number."))
    with rg.plugins.manager.register(sent):
        async for chat in pipeline.iter_batch(QUESTIONS[:3], checkpoint=checkpoint):
            print("first run: ", chat.last.text)
        print(sent.count, "sent so far")

        chats = await pipeline.run_batch(QUESTIONS, checkpoint=checkpoint, on_failed="include")
        print(f"second run: {len(chats)} answers, {len(chats.failed)} failed")
        print(sent.count, "sent in all")


if __name__ == "__main__":
    # A checkpoint knows an item by its generator's identifier, so this one needs a name.
    rg.register_generator("echo", EchoGenerator)
    identifier = sys.argv[1] if sys.argv[1:] else "echo!any"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = sys.argv[2] if sys.argv[2:] else f"{folder}/run.db"
        asyncio.run(main(identifier, Path(checkpoint)))
