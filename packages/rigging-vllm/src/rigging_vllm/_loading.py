"""Building an engine: all that imports vLLM before one runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rigging.local import check_hub_token
from rigging_vllm._errors import load_error
from rigging_vllm._source import PROVIDER, locate
from rigging_vllm._spawning import note_of_spawned

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_vllm._spec import EngineSpec

__all__ = ["build"]


def build(spec: EngineSpec, go_on: Callable[[], None]) -> Any:
    """Return a new `AsyncLLM`, whose engine has a process of its own.

    Args:
        spec: Its model and arguments.
        go_on: Called between the steps, the longest of which take a quarter of a minute;
            what it raises ends the building.

    Raises:
        AuthenticationError: If the hub token cannot be one.
        ModelNotFoundError: If there is no such model.
        MissingDependencyError: If vLLM, or what it imports, is missing.
        InvalidGeneratorError: If vLLM refuses the arguments, or there is no main guard.
        ProviderServerError: If it fails otherwise.
    """
    model = locate(spec.model)
    check_hub_token(spec.arguments.get("hf_token"), provider=PROVIDER, model=spec.model)
    with note_of_spawned() as note:
        try:
            return _build(spec, model, go_on)
        except Exception as error:  # noqa: BLE001 (whatever vLLM raises is mapped)
            failure = load_error(error, spec, is_unguarded=note.exists())
    # Not while the original is handled: it would be the context, with whatever it shows.
    raise failure


def _build(spec: EngineSpec, model: str, go_on: Callable[[], None]) -> Any:
    # The package itself imports torch, and the two modules most of vLLM.
    for module in ("vllm", "vllm.engine.arg_utils", "vllm.v1.engine.async_llm"):
        go_on()
        importlib.import_module(module)
    go_on()
    # Statistics are for servers that publish them, and cost time at every step.
    arguments = {"disable_log_stats": True, **spec.arguments, "model": model}
    if spec.adapters:
        arguments = _with_room(len(spec.adapters)) | arguments
    args = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    engine = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
    return engine.from_engine_args(args(**arguments))


def _with_room(adapters: int) -> dict[str, Any]:
    """Return the arguments for an engine with LoRA adapters."""
    platform = importlib.import_module("vllm.platforms").current_platform
    # On CPUs vLLM gives rows without an adapter the last slot, which has to stay empty then.
    more = {"max_loras": adapters + 1} if platform.is_cpu() else {}
    return {"enable_lora": True, **more}
