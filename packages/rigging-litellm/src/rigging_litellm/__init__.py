"""LiteLLM generator for rigging: hosted models, and servers that speak OpenAI's protocol."""

from rigging_litellm._generator import LiteLLMGenerator
from rigging_litellm._version import __version__

__all__ = ["LiteLLMGenerator", "__version__"]
