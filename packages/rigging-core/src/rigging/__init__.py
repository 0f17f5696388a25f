"""Rigging: one string names any model, one pipeline runs it, any backend can be a plugin.

>>> import asyncio
>>> import rigging as rg
>>> with rg.register_generator("echo", rg.testing.EchoGenerator):
...     chat = asyncio.run(rg.get_generator("echo!any,temperature=0.5").chat("Hi").run())
>>> chat.last.content
'Hi'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rigging import error
from rigging._version import __version__
from rigging.chat import Chat, ChatList, ChatPipeline
from rigging.completion import Completion, CompletionPipeline
from rigging.error import RiggingError
from rigging.generator import Generator, get_generator, get_identifier, register_generator
from rigging.message import (
    AudioData,
    AudioPart,
    FunctionCall,
    ImagePart,
    ImageURL,
    Message,
    TextPart,
    ToolCall,
)
from rigging.params import GenerateParams
from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage

if TYPE_CHECKING:
    from rigging import testing

__all__ = [
    "AudioData",
    "AudioPart",
    "Chat",
    "ChatList",
    "ChatPipeline",
    "Completion",
    "CompletionPipeline",
    "FunctionCall",
    "GenerateParams",
    "GeneratedMessage",
    "GeneratedText",
    "Generator",
    "ImagePart",
    "ImageURL",
    "Message",
    "RiggingError",
    "StopReason",
    "TextPart",
    "ToolCall",
    "Usage",
    "__version__",
    "error",
    "get_generator",
    "get_identifier",
    "register_generator",
    "testing",
]


def __getattr__(name: str) -> Any:
    # Few programs need the test doubles, so nobody else pays for them.
    if name == "testing":
        return importlib.import_module("rigging.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
