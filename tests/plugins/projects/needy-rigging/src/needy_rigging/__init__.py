"""Imports a dependency that is not installed."""

from __future__ import annotations

import absent_engine.runtime

from rigging import Generator


class NeedyGenerator(Generator):
    async def generate_messages(self, messages: object, params: object) -> object:
        return absent_engine.runtime.run(messages, params)
