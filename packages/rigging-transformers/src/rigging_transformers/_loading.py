"""Loading of a model by transformers. Imports torch: import this module late.

Whatever goes wrong becomes an error of `rigging.error`, with transformers' own as the
cause: it raises ``OSError`` for a missing model, a gated one and a missing network alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging.error import (
    BadRequestError,
    GenerationError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProviderConnectionError,
    ProviderServerError,
)
from rigging_transformers._loaded import Loaded
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rigging_transformers._source import LoadSpec, Source

__all__ = ["load"]

# A class somewhere behind transformers' OSError (the hub's, by name, since its package is
# transformers' dependency and not ours) -> what it means. The first that fits counts.
_REASONS: Final[Mapping[str, tuple[type[GenerationError], str]]] = {
    "OutOfMemoryError": (
        ProviderServerError,
        "out of memory while loading: try dtype=bfloat16, load_in_8bit=true or device_map=auto",
    ),
    "GatedRepoError": (
        PermissionDeniedError,
        "the model is gated: ask for access on its page, then log in with `hf auth login` or "
        "give api_key (a hub token)",
    ),
    "RepositoryNotFoundError": (
        ModelNotFoundError,
        "the hub has no such model, or it is private and api_key (a hub token) is missing",
    ),
    "LocalEntryNotFoundError": (
        ProviderConnectionError,
        "the model is not in the local cache, and the hub cannot be reached or HF_HUB_OFFLINE is "
        "set. Check the connection, or name a directory or a .gguf file instead",
    ),
}


def load(spec: LoadSpec, source: Source) -> Loaded:
    """Load a model and its tokenizer, ready to generate.

    Raises:
        GenerationError: If it cannot be had; the subclass says why.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.name, **_common(spec, source))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.name, **_common(spec, source), **_model_options(spec, source)
        )
    except Exception as error:
        raise _explain(error, spec.model) from error
    model.eval()
    # generate() would warn of it at each call: how long an answer may be, each row says itself.
    model.generation_config.max_length = None
    return Loaded(model, tokenizer, spec.model, spec)


def _common(spec: LoadSpec, source: Source) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if source.gguf_file is not None:
        options["gguf_file"] = source.gguf_file
    if spec.token is not None:
        options["token"] = spec.token
    return options


def _model_options(spec: LoadSpec, source: Source) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if spec.dtype is not None:
        options["dtype"] = spec.dtype
    if spec.device_map is not None:
        options["device_map"] = spec.device_map
    elif torch.accelerator.is_available():
        options["device_map"] = "auto"
    if spec.load_in_8bit or spec.load_in_4bit:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=spec.load_in_8bit, load_in_4bit=spec.load_in_4bit
        )
    elif source.gguf_file is not None and hasattr(transformers, "GgufConfig"):
        # Releases without that class always unpack.
        options["quantization_config"] = transformers.GgufConfig(dequantize=spec.dequantize)
    return options


def _explain(error: Exception, model: str) -> GenerationError:
    known = [name for cause in _chain(error) for name in _class_names(cause)]
    for name, (kind, message) in _REASONS.items():
        if name in known:
            retryable = kind is ProviderConnectionError
            return kind(message, provider=PROVIDER, model=model, retryable=retryable)
    kind = ModelNotFoundError if isinstance(error, OSError) else BadRequestError
    return kind(
        f"transformers cannot load the model: {_first_line(error)}", provider=PROVIDER, model=model
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _class_names(error: BaseException) -> list[str]:
    return [cls.__name__ for cls in type(error).__mro__]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
