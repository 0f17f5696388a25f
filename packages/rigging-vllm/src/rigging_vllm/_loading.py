"""Building and shutting down a `vllm.LLM`: all that imports vLLM."""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING, Any

from rigging_vllm._errors import load_error
from rigging_vllm._source import locate

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build", "free_memory", "library", "shut_down"]


def library() -> Any:
    """Return the module `vllm`, whatever distribution brought it."""
    return importlib.import_module("vllm")


def build(arguments: Mapping[str, Any]) -> Any:
    """Return a new engine.

    Args:
        arguments: Of `vllm.LLM`.

    Raises:
        ModelNotFoundError: If there is no such model.
        MissingDependencyError: If vLLM, or what it imports, is missing.
        InvalidGeneratorError: If vLLM refuses the arguments.
        ProviderServerError: If it fails otherwise.
    """
    model = arguments["model"]
    place = locate(model)
    try:
        return library().LLM(**{**arguments, "model": place})
    except Exception as error:
        raise load_error(error, model) from error


def shut_down(llm: Any) -> None:
    """End an engine: its processes, if it has any, and its caches."""
    llm.llm_engine.engine_core.shutdown()


def free_memory() -> None:
    """Give back what a dropped engine held."""
    # Its parts refer to each other in circles.
    gc.collect()
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
