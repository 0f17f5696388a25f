"""Function calling: the model asks for a call, the program answers, the model goes on.

    python examples/tools.py [IDENTIFIER]

A `then` that returns a pipeline has it run, so this goes on until no call is asked for.
"""

from __future__ import annotations

import asyncio
import json
import sys

import rigging as rg
from rigging.testing import ScriptedGenerator

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def weather(city: str) -> str:
    """Look out of the window."""
    return f"21 degrees and sunny in {city}"


def answer_calls(chat: rg.Chat) -> rg.ChatPipeline | None:
    """Call what the model wants called, and let it go on; None when it wants nothing."""
    answers = []
    for call in chat.last.tool_calls:
        result = weather(**json.loads(call.function.arguments))
        print(f"{call.function.name}({call.function.arguments}) -> {result}")
        answers.append(rg.Message("tool", result, tool_call_id=call.id))
    return chat.continue_(answers) if answers else None


async def main(generator: rg.Generator) -> None:
    """Ask something that the model cannot know."""
    pipeline = generator.chat("How is the weather in Paris?").with_(tools=[WEATHER])
    chat = await pipeline.then(answer_calls).run()
    print("answer:", chat.last.text)


if __name__ == "__main__":
    function = rg.FunctionCall(name="weather", arguments='{"city": "Paris"}')
    call = rg.ToolCall(id="1", function=function)
    wish = rg.GeneratedMessage(message=rg.Message("assistant", "", tool_calls=[call]))
    script = ScriptedGenerator([wish, "It is warm and sunny."])
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else script
    asyncio.run(main(generator))
