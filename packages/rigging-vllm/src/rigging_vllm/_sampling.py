"""Mapping of `GenerateParams` to vLLM's `SamplingParams`.

One table, checked in both directions by `tests/vllm/test_sampling.py`: a field is mapped,
handled elsewhere, or named in a warning, and never dropped. Its own function makes plain
dicts, so it is tested without an engine.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING, Any, Final

from rigging.error import BadRequestError
from rigging.local import TEMPLATE_VARIABLES
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


# Theirs that is an object, and may be given as a dict of its fields -> its class.
_NESTED: Final[Mapping[str, str]] = {
    "repetition_detection": "RepetitionDetectionParams",
    "structured_outputs": "StructuredOutputsParams",
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
        serial = importlib.import_module("vllm.v1.serial_utils")
        self._encode = serial.MsgpackEncoder().encode
        self._decode = serial.MsgpackDecoder(_types_of(self._cls)).decode
        of_model = model_config.get_diff_sampling_param()
        self._defaults = {name: of_model[name] for name in FROM_MODEL if name in of_model}

    def params(self, params: GenerateParams, output_kind: Any) -> Any:
        """Return the parameters of one request.

        Args:
            params: What is wanted, with what the generator holds already merged in.
            output_kind: A ``RequestOutputKind``: whether the text comes whole or in pieces.

        Raises:
            BadRequestError: As `sampling_kwargs`, or if a value has another type than vLLM's.
            Exception: What vLLM raises for values that it refuses.
        """
        kwargs = sampling_kwargs(params, self._defaults, self._known)
        for name, kind in _NESTED.items():
            if isinstance(kwargs.get(name), dict):
                kwargs[name] = _made(getattr(self._module, kind), name, kwargs[name])
        made = self._cls(**kwargs, output_kind=output_kind)
        try:
            # The engine's process does the same, and a value that does not fit stops it for all.
            self._decode(self._encode(made))
        except Exception as error:
            raise BadRequestError(f"vLLM refuses the request: {error}") from error
        return made


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
        if name in {LORA, TEMPLATE_VARIABLES}:
            continue
        if name in _RESERVED:
            raise BadRequestError(f"extra.{name} cannot be set: {_RESERVED[name]}")
        if name not in known or name.startswith("_"):
            raise _unknown(name, known)
        kwargs[name] = value
    _correct(kwargs)
    return kwargs


def _correct(kwargs: dict[str, Any]) -> None:
    """Correct or refuse what vLLM would take for something else."""
    if isinstance(kwargs.get("logit_bias"), dict):
        try:  # in JSON and in identifiers keys are texts
            kwargs["logit_bias"] = {int(id_): bias for id_, bias in kwargs["logit_bias"].items()}
        except ValueError as error:
            raise BadRequestError(f"extra.logit_bias has token ids for keys: {error}") from error
    if isinstance(kwargs.get("bad_words"), str):
        raise BadRequestError("extra.bad_words is a list of texts, and a text was given")
    if kwargs.get("seed") == -1:
        raise BadRequestError("seed=-1 is no seed to vLLM: leave it out, or give another one")


def _types_of(cls: Any) -> Any:
    """Return a class with the same fields that only knows their types.

    The class itself would check and correct the values once more when it is read, which its
    constructor has done, and takes ten times as long.
    """
    msgspec = importlib.import_module("msgspec")
    fields = [(field.name, field.type, None) for field in msgspec.structs.fields(cls)]
    return msgspec.defstruct(cls.__name__, fields, array_like=cls.__struct_config__.array_like)


def _made(cls: Any, name: str, values: dict[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise BadRequestError(f"extra.{name} has no {key!r} (it has: {', '.join(known)})")
    return cls(**values)


def _unknown(name: str, known: Collection[str]) -> BadRequestError:
    valid = sorted(k for k in known if not k.startswith("_") and k not in _RESERVED)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return BadRequestError(
        f"extra.{name}: vLLM has no sampling parameter {name!r}; {hint}(it has: {', '.join(valid)})"
    )
