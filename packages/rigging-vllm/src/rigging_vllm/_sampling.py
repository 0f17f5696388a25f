"""Mapping of `GenerateParams` to vLLM's `SamplingParams`.

One table, checked in both directions by `tests/vllm/test_sampling.py`: a field is mapped,
handled elsewhere, or named in a warning, and never dropped. Its own function makes plain
dicts, so it is tested without an engine.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, Final

from rigging.error import BadRequestError
from rigging_vllm._lora import LORA

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rigging.params import GenerateParams

__all__ = ["FROM_MODEL", "UNSUPPORTED", "Sampling", "sampling_kwargs"]

# Ours -> theirs. None marks fields handled elsewhere: below (extra), by the chat template
# (tools), or by the caller's side of a request (timeout).
_FIELDS: Final[Mapping[str, str | None]] = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "top_k": "top_k",
    "top_p": "top_p",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "timeout": None,
    "tools": None,
    "extra": None,
}

#: Fields of `GenerateParams` that an engine in this process has no use for.
UNSUPPORTED: Final = ("api_base", "tool_choice", "parallel_tool_calls", "modalities", "audio")

#: What a model's own generation config may say where the caller says nothing.
FROM_MODEL: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

# Theirs that are ours to set -> what to do instead.
_RESERVED: Final[Mapping[str, str]] = {
    "detokenize": "results are text",
    "n": "use run_many()",
    "output_kind": "use run() for whole results, stream() for pieces",
    "output_text_buffer_length": "it is vLLM's own",
    "skip_clone": "it is vLLM's own",
}


class Sampling:
    """Makes vLLM's `SamplingParams` for one engine.

    Args:
        model_config: The engine's, which knows the model's own generation config.
    """

    def __init__(self, model_config: Any) -> None:
        self._module = importlib.import_module("vllm.sampling_params")
        self._cls = self._module.SamplingParams
        self._known = frozenset(self._cls.__struct_fields__)
        of_model = model_config.get_diff_sampling_param()
        self._defaults = {name: of_model[name] for name in FROM_MODEL if name in of_model}

    def params(self, params: GenerateParams, output_kind: Any) -> Any:
        """Return the parameters of one request.

        Args:
            params: What is wanted, with what the generator holds already merged in.
            output_kind: A ``RequestOutputKind``: whether the text comes whole or in pieces.

        Raises:
            BadRequestError: As `sampling_kwargs`.
            Exception: What vLLM raises for values that it refuses.
        """
        kwargs = sampling_kwargs(params, self._defaults, self._known)
        if isinstance(kwargs.get("structured_outputs"), dict):
            structured = self._module.StructuredOutputsParams(**kwargs["structured_outputs"])
            kwargs["structured_outputs"] = structured
        return self._cls(**kwargs, output_kind=output_kind)


def sampling_kwargs(
    params: GenerateParams, defaults: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """Return the keyword arguments of `SamplingParams`.

    Args:
        params: What is wanted, with what the generator holds already merged in.
        defaults: What the model's generation config says, by vLLM's names.
        known: The names that `SamplingParams` takes.

    Raises:
        BadRequestError: If ``extra`` holds a name that vLLM does not know, or one that
            the generator sets itself.
    """
    # Without a limit of its own, an answer may fill the context: vLLM's 16 tokens would cut
    # nearly every one.
    kwargs: dict[str, Any] = {"max_tokens": None, **defaults}
    for ours in params.model_fields_set:
        theirs, value = _FIELDS.get(ours), getattr(params, ours)
        if theirs is not None and value is not None:
            kwargs[theirs] = value
    if params.stop is not None:
        kwargs["stop"] = [stop for stop in params.stop if stop]  # vLLM refuses empty ones
    for name, value in params.extra.items():
        if name == LORA:
            continue
        if name in _RESERVED:
            raise BadRequestError(f"extra.{name} cannot be set: {_RESERVED[name]}")
        if name not in known or name.startswith("_"):
            raise _unknown(name, known)
        kwargs[name] = value
    return kwargs


def _unknown(name: str, known: Collection[str]) -> BadRequestError:
    valid = sorted(k for k in known if not k.startswith("_") and k not in _RESERVED)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return BadRequestError(
        f"extra.{name}: vLLM has no sampling parameter {name!r}; {hint}(it has: {', '.join(valid)})"
    )
