"""Two classes, written for an older and for a newer plugin API."""

from __future__ import annotations

from typing import ClassVar

from rigging import Generator


class OlderGenerator(Generator):
    plugin_api: ClassVar[int] = 0


class NewerGenerator(Generator):
    plugin_api: ClassVar[int] = 99
