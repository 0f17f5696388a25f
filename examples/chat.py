"""A conversation: a system message, a question, and one that goes on from the answer.

    python examples/chat.py [IDENTIFIER]

A chat is a value: `continue_` gives the pipeline of the next turn, with all that was said before.
"""

from __future__ import annotations

import asyncio
import sys

import rigging as rg
from rigging.testing import ScriptedGenerator


async def main(generator: rg.Generator) -> None:
    """Ask twice, and print the whole conversation."""
    pipeline = generator.chat(
        [rg.Message("system", "Answer in one sentence."), "What is the capital of France?"]
    )
    chat = await pipeline.run()
    chat = await chat.continue_("And of Italy?").run()

    print(chat.conversation)


if __name__ == "__main__":
    replies = ["The capital of France is Paris.", "It is Rome."]
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else ScriptedGenerator(replies)
    asyncio.run(main(generator))
