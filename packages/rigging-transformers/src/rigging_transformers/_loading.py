"""Loading of a model by transformers. Imports torch: import this module late.

Whatever goes wrong becomes an error of `rigging.error`, with transformers' own as the
cause: it raises ``OSError`` for a missing model, a gated one and a missing network alike.
"""

from __future__ import annotations

import copy
import gc
import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging.error import (
    BadRequestError,
    GenerationError,
    MissingDependencyError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProviderConnectionError,
    ProviderServerError,
    RiggingError,
)
from rigging_transformers._frames import drop_frames
from rigging_transformers._loaded import Loaded
from rigging_transformers._memory import free_memory, is_out_of_memory
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rigging_transformers._source import LoadSpec, Source

__all__ = ["load"]

_log: Final = logging.getLogger(__name__)

# Of `model_kwargs`: what the hub is asked by, and what the tokenizer is loaded with, too.
_HUB: Final = ("cache_dir", "force_download", "local_files_only", "proxies")
_SHARED: Final = (*_HUB, "code_revision", "subfolder")

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
        MissingDependencyError: If transformers asks for a package that is not there.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.name, **_shared(spec, source))
        model = _load_model(spec, source)
    except Exception as error:
        _log.debug("%s does not load", spec.model, exc_info=error)
        # What was loaded so far hangs on them.
        drop_frames(error)
        gc.collect()
        free_memory()
        if isinstance(error, RiggingError):
            raise
        raise _explain(error, spec) from error
    model.eval()
    # generate() would warn of it at each call: how long an answer may be, each row says itself.
    model.generation_config.max_length = None
    return Loaded(model, tokenizer, spec.model, spec)


def _load_model(spec: LoadSpec, source: Source) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.name, **_shared(spec, source), **_model_options(spec, source)
    )
    if source.adapter is not None:
        _add_adapter(model, source.adapter, spec)
    return model


def _add_adapter(model: Any, adapter: str, spec: LoadSpec) -> None:
    """Load an adapter into the model, whose class stays as it is."""
    hub = {"token": spec.token} if spec.token is not None else {}
    hub |= {name: spec.model_kwargs[name] for name in _HUB if name in spec.model_kwargs}
    # load_adapter() would call it missing, whatever the reason.
    transformers.utils.cached_file(adapter, "adapter_config.json", **hub)
    try:
        found = model.load_adapter(adapter, adapter_kwargs=hub)
    except (ImportError, OSError):
        raise
    # Of whatever kind of adapter it is, it raises its own.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _misfit(spec, adapter, _first_line(error)) from error
    # transformers fills what is missing with random numbers, and goes on.
    for kind in ("missing", "unexpected"):
        names = sorted(getattr(found, f"{kind}_keys", ()))
        if names:
            raise _misfit(spec, adapter, f"{len(names)} weights are {kind}, such as {names[0]}")


def _misfit(spec: LoadSpec, adapter: str, reason: str) -> BadRequestError:
    return BadRequestError(
        f"the adapter {adapter!r} cannot be put on the model: {reason}. If it was made for this "
        f"model, merge the two by peft's merge_and_unload(), and load the result",
        provider=PROVIDER,
        model=spec.model,
    )


def _shared(spec: LoadSpec, source: Source) -> dict[str, Any]:
    """Return the options that tokenizer and model are loaded with."""
    options: dict[str, Any] = {
        "trust_remote_code": spec.trust_remote_code,
        "gguf_file": source.gguf_file,
        "revision": spec.revision,
        "token": spec.token,
    }
    options |= {name: spec.model_kwargs[name] for name in _SHARED if name in spec.model_kwargs}
    return {name: value for name, value in options.items() if value is not None}


def _model_options(spec: LoadSpec, source: Source) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if spec.dtype is not None:
        options["dtype"] = spec.dtype
    if spec.attn_implementation is not None:
        options["attn_implementation"] = spec.attn_implementation
    if spec.device_map is not None:
        options["device_map"] = spec.device_map
    elif torch.accelerator.is_available():
        options["device_map"] = "auto"
    if spec.load_in_8bit or spec.load_in_4bit:
        _import_bitsandbytes()
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=spec.load_in_8bit, load_in_4bit=spec.load_in_4bit
        )
    elif source.gguf_file is not None and hasattr(transformers, "GgufConfig"):
        # Releases without that class always unpack.
        options["quantization_config"] = transformers.GgufConfig(dequantize=spec.dequantize)
    # Its own, since from_pretrained() may change what it is given.
    own = copy.deepcopy(spec.model_kwargs)
    return options | {name: value for name, value in own.items() if name not in _SHARED}


def _import_bitsandbytes() -> None:
    """Check that it works here, of which transformers' own error says nothing."""
    try:
        importlib.import_module("bitsandbytes")
    # It loads libraries for the machine's accelerator, so it may raise anything.
    except Exception as error:
        raise MissingDependencyError(
            PROVIDER,
            f"bitsandbytes is installed, but does not work here: {_first_line(error)}. "
            f"Load without load_in_8bit and load_in_4bit, or see `python -m bitsandbytes`",
            "bitsandbytes",
        ) from error


def _explain(error: Exception, spec: LoadSpec) -> RiggingError:
    known = [name for cause in _chain(error) for name in _class_names(cause)]
    for name, (kind, message) in _REASONS.items():
        if name in known:
            retryable = kind is ProviderConnectionError
            return kind(message, provider=PROVIDER, model=spec.model, retryable=retryable)
    reason = _first_line(error)
    if isinstance(error, ImportError):
        return MissingDependencyError(
            PROVIDER,
            f"transformers cannot load {spec.model!r} without a package: {reason}",
            error.name or "",
        )
    if "trust_remote_code=True" in str(error) and not spec.trust_remote_code:
        reason = (
            "it comes with code of its own, which is run only with trust_remote_code=true. "
            "Look at the code first, and set it if you trust its authors"
        )
    kind = ModelNotFoundError if isinstance(error, OSError) else BadRequestError
    return kind(
        f"transformers cannot load the model: {reason}", provider=PROVIDER, model=spec.model
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
