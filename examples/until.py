"""Ask until the answer is valid: what is wrong with it is the next message.

    python examples/until.py [IDENTIFIER]

After `max_rounds` further answers it gives up, with a `MaxRoundsError`.
"""

from __future__ import annotations

import asyncio
import json
import sys

import rigging as rg
from rigging.testing import ScriptedGenerator

PROMPT = 'Name a city and its country, as JSON such as {"city": "…", "country": "…"}.'


def complaint(chat: rg.Chat) -> str | None:
    """Say what is wrong with the answer, or None."""
    try:
        answer = json.loads(chat.last.text)
    except ValueError as error:
        return f"That is no JSON ({error}). Answer with JSON only."
    missing = {"city", "country"} - answer.keys()
    return f"Missing: {', '.join(sorted(missing))}. Answer again, whole." if missing else None


async def main(generator: rg.Generator) -> None:
    """Print the valid answer, and how many it took."""
    chat = await generator.chat(PROMPT).until(complaint, max_rounds=5).run()

    print(chat.conversation)
    answers = sum(message.role == "assistant" for message in chat.all)
    print(f"\nvalid after {answers} answers: {json.loads(chat.last.text)}")


if __name__ == "__main__":
    replies = ["Paris!", '{"city": "Paris"}', '{"city": "Paris", "country": "France"}']
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else ScriptedGenerator(replies)
    asyncio.run(main(generator))
