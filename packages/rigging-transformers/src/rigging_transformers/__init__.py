"""Transformers generator for rigging."""

from rigging_transformers._generator import TransformersGenerator
from rigging_transformers._version import __version__

__all__ = ["TransformersGenerator", "__version__"]
