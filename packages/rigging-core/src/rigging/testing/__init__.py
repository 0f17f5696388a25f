"""Test doubles and the conformance suite, for users and for authors of providers.

The doubles need nothing; `GeneratorContract` needs pytest and is imported when asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rigging.testing._doubles import EchoGenerator, RecordedCall, Reply, ScriptedGenerator

if TYPE_CHECKING:
    from rigging.testing._contract import GeneratorContract

__all__ = ["EchoGenerator", "GeneratorContract", "RecordedCall", "Reply", "ScriptedGenerator"]


def __getattr__(name: str) -> Any:
    if name == "GeneratorContract":
        return importlib.import_module("rigging.testing._contract").GeneratorContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
