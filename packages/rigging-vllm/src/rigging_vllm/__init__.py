"""vLLM generator for rigging: local models, many requests batched."""

from rigging_vllm._generator import VLLMGenerator
from rigging_vllm._version import __version__

__all__ = ["VLLMGenerator", "__version__"]
