"""A listener that adds up tokens and seconds, whatever runs.

    python examples/count_tokens.py [IDENTIFIER]

Installed as an entry point, such a class listens in every program: `docs/plugins.md`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import rigging as rg
from rigging.events import RequestFailed, RequestFinished
from rigging.testing import EchoGenerator


class Spending:
    """Tokens by model, and failures by kind. A plugin inherits nothing: the names are enough."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def rigging_request_finished(self, event: RequestFinished) -> None:
        if event.usage is not None:
            self.tokens[event.request.origin.model] += event.usage.total_tokens

    def rigging_request_failed(self, event: RequestFailed) -> None:
        self.failures[event.error_type] += 1


async def main(generator: rg.Generator) -> None:
    """Run a batch while the listener is registered."""
    spending = Spending()
    with rg.plugins.manager.register(spending):
        prompts = ["Name a colour.", "Name a fruit, and say why."]
        await generator.chat().run_batch(prompts, on_failed="include")

    print("tokens:", dict(spending.tokens))
    print("failures:", dict(spending.failures))


if __name__ == "__main__":
    generator = rg.get_generator(sys.argv[1]) if sys.argv[1:] else EchoGenerator(model="tiny")
    asyncio.run(main(generator))
