"""OpenAI generator for rigging: every endpoint that speaks OpenAI's protocol."""

from rigging_openai._generator import OpenAIGenerator
from rigging_openai._version import __version__

__all__ = ["OpenAIGenerator", "__version__"]
