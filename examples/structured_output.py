"""Structured output: the model is held to a schema, and a pydantic model reads the answer.

    python examples/structured_output.py [IDENTIFIER]

`response_format` is what OpenAI's protocol calls it; vLLM in this process has
`extra={"structured_outputs": {"json": schema}}`.
"""

from __future__ import annotations

import asyncio
import sys

from pydantic import BaseModel

import rigging as rg
from rigging.testing import ScriptedGenerator


class City(BaseModel):
    """What is asked for."""

    name: str
    country: str
    inhabitants: int


FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "city", "schema": City.model_json_schema()},
}


async def main(generator: rg.Generator) -> None:
    """Ask for several, and print them as the values that they are."""
    pipeline = generator.chat().with_(extra={"response_format": FORMAT})
    # An answer that does not fit the schema is a failure of that item only.
    pipeline = pipeline.then(lambda chat: chat.meta(city=City.model_validate_json(chat.last.text)))

    prompts = ["The capital of France.", "The capital of Italy.", "The capital of Atlantis."]
    chats = await pipeline.run_batch(prompts, on_failed="include")
    for prompt, chat in zip(prompts, chats, strict=True):
        print(prompt, "invalid" if chat.failed else repr(chat.metadata["city"]))


if __name__ == "__main__":
    replies = [
        '{"name": "Paris", "country": "France", "inhabitants": 2100000}',
        '{"name": "Rome", "country": "Italy", "inhabitants": 2700000}',
        '{"name": "Poseidonis", "country": "Atlantis", "inhabitants": "unknown"}',
    ]
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else ScriptedGenerator(replies)
    asyncio.run(main(generator))
