"""Building an engine: all that imports vLLM before one runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rigging_vllm._errors import load_error
from rigging_vllm._source import locate
from rigging_vllm._spawning import take_note

if TYPE_CHECKING:
    from rigging_vllm._spec import EngineSpec

__all__ = ["build"]


def build(spec: EngineSpec) -> Any:
    """Return a new `AsyncLLM`, whose engine has a process of its own.

    Args:
        spec: Its model and arguments.

    Raises:
        ModelNotFoundError: If there is no such model.
        MissingDependencyError: If vLLM, or what it imports, is missing.
        InvalidGeneratorError: If vLLM refuses the arguments.
        ProviderServerError: If it fails otherwise.
    """
    # Statistics are for servers that publish them, and cost time at every step.
    arguments = {"disable_log_stats": True, **spec.arguments, "model": locate(spec.model)}
    take_note()  # an old one, of another process with this one's number
    try:
        if spec.adapters:
            arguments = _with_room(len(spec.adapters)) | arguments
        args = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
        engine = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
        return engine.from_engine_args(args(**arguments))
    except Exception as error:
        raise load_error(error, spec.model) from error


def _with_room(adapters: int) -> dict[str, Any]:
    """Return the arguments for an engine with LoRA adapters."""
    platform = importlib.import_module("vllm.platforms").current_platform
    # On CPUs vLLM gives rows without an adapter the last slot, which has to stay empty then.
    more = {"max_loras": adapters + 1} if platform.is_cpu() else {}
    return {"enable_lora": True, **more}
