"""LoRA adapters: which one a request asks for, and whether it can be had."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rigging.error import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.params import GenerateParams

__all__ = ["LORA", "Adapters", "lora_request", "not_loaded"]

#: The key of a request's ``extra`` that names its adapter.
LORA: Final = "lora"


class Adapters:
    """The adapters of one `AsyncLLM`, loaded before the first request that asks for them.

    Args:
        llm: The engine.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._loaded: set[int] = set()

    async def get(self, params: GenerateParams, adapters: Mapping[str, str]) -> Any:
        """Return what `lora_request` returns, for an adapter that the engine has.

        Raises:
            BadRequestError: If there is no adapter of that name, or it cannot be loaded.
        """
        request = lora_request(params, adapters)
        if request is not None and not self._has(request):
            # A request for one that cannot be loaded would kill the engine.
            try:
                await self._llm.add_lora(request)
            except Exception as error:
                if self._llm.errored:
                    raise
                raise not_loaded(request, error) from error
            self._loaded.add(request.lora_int_id)
        return request

    def _has(self, request: Any) -> bool:
        # One that had to make room for others is read once more.
        path = Path(request.lora_path)
        is_gone = path.is_absolute() and not path.exists()
        return request.lora_int_id in self._loaded and not is_gone


def not_loaded(request: Any, error: Exception) -> BadRequestError:
    """Return the error for a `LoRARequest` whose adapter vLLM cannot load."""
    return BadRequestError(
        f"the LoRA adapter {request.lora_name!r} cannot be loaded from {request.lora_path}: {error}"
    )


def lora_request(params: GenerateParams, adapters: Mapping[str, str]) -> Any:
    """Return vLLM's `LoRARequest` for what a request asks for, or None for the model alone.

    Args:
        params: ``extra.lora`` names the adapter.
        adapters: Paths by name.

    Raises:
        BadRequestError: If there is no adapter of that name.
    """
    name = params.extra.get(LORA)
    if name is None:
        return None
    names = list(adapters)
    if name not in names:
        known = f"there are: {', '.join(names)}" if names else "none is given"
        raise BadRequestError(
            f"no LoRA adapter is named {name!r} ({known}): name it in lora_modules"
        )
    cls = importlib.import_module("vllm.lora.request").LoRARequest
    path = _located(adapters[name])
    # vLLM tells adapters apart by a number, whoever else uses the engine.
    digest = hashlib.blake2b(f"{name}\0{path}".encode(), digest_size=4).digest()
    return cls(name, (int.from_bytes(digest) >> 1) or 1, path)


def _located(adapter: str) -> str:
    """Return the whole path of a directory: the engine's process may run in another one."""
    try:
        path = Path(adapter).expanduser().resolve()
        return str(path) if path.exists() else adapter
    except (OSError, RuntimeError, ValueError):  # too long, or nobody's home
        return adapter
