"""Loading of a model by transformers. Imports torch: import this module late.

Whatever goes wrong becomes an error of `rigging.error`, with transformers' own as the cause.
"""

from __future__ import annotations

import copy
import gc
import importlib
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from rigging.error import (
    BadRequestError,
    MissingDependencyError,
    ModelNotFoundError,
    RiggingError,
)
from rigging.local import drop_frames
from rigging_transformers._adapter import add_adapter
from rigging_transformers._load_errors import GGUF, explain, is_wordy, of_hub, reason_of
from rigging_transformers._loaded import Loaded, no_decoder
from rigging_transformers._memory import (
    count_failures,
    free_memory,
    weights_apart,
)
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Collection

    from rigging_transformers._source import LoadSpec, Source

__all__ = ["load"]

_log: Final = logging.getLogger(__name__)

# Of `model_kwargs`: what the hub is asked by, and what the tokenizer is loaded with, too.
_HUB: Final = ("cache_dir", "force_download", "local_files_only", "proxies")
_SHARED: Final = (*_HUB, "code_revision", "subfolder")

# What transformers says where weights could not be converted: the reason is in its log alone.
_UNCONVERTED: Final = "automatic conversion of the weights"
# Of the warnings of 8-bit layers in bitsandbytes, and those that have been given.
_CASTS: Final = "MatMul8bitLt: inputs will be cast"
_told: Final[set[str]] = set()
# What it says where a model is no model of some kind.
_OTHER_KIND: Final = "Unrecognized configuration class"
_NO_TOKENIZER: Final = "Couldn't instantiate the backend tokenizer"
_GPU: Final = re.compile(r"(cuda|mps|npu|xpu)(:\d+)?|\d+")


def load(spec: LoadSpec, source: Source) -> Loaded:
    """Load a model and its tokenizer, ready to generate.

    Raises:
        GenerationError: If it cannot be had; the subclass says why.
        MissingDependencyError: If transformers asks for a package that is not there.
    """
    try:
        _check_devices(spec)
        tokenizer = _load_tokenizer(spec, source)
        with weights_apart():
            model = _load_model(spec, source)
        if tokenizer.chat_template is None and _is_multimodal(model):
            tokenizer.chat_template = _processor_template(spec, source)
    except Exception as error:
        _log.debug("%s does not load", spec.model, exc_info=error)
        # What was loaded so far hangs on them.
        drop_frames(error)
        gc.collect()
        free_memory()
        if isinstance(error, RiggingError):
            raise
        what = "the model" if source.gguf_file is None else GGUF
        raise explain(error, spec, what) from error
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_once)
    model.eval()
    # generate() would warn of it at each call: how long an answer may be, each row says itself.
    model.generation_config.max_length = None
    return Loaded(model, tokenizer, spec.model, spec)


def _check_devices(spec: LoadSpec) -> None:
    """Check that there is a GPU where one is named, of which torch's own error says nothing."""
    if spec.device_map is None or torch.accelerator.is_available():
        return
    parts = spec.device_map.values() if isinstance(spec.device_map, dict) else [spec.device_map]
    asking = [("device_map", f"device_map={part!r}") for part in parts if _is_gpu(part)]
    limits = spec.model_kwargs.get("max_memory") or ()
    asking += [("max_memory", f"max_memory of {device!r}") for device in limits if _is_gpu(device)]
    for field, given in asking:
        raise BadRequestError(
            f"{given} asks for a GPU, and torch finds none (torch {torch.__version__}): "
            f"leave {field} out, or install a CUDA build of torch",
            provider=PROVIDER,
            model=spec.model,
        )


def _is_gpu(device: str | int) -> bool:
    return _GPU.fullmatch(str(device)) is not None


def _load_tokenizer(spec: LoadSpec, source: Source) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(source.name, **_shared(spec, source))
    except Exception as error:
        if _NO_TOKENIZER in str(error):
            raise ModelNotFoundError(
                "the model lacks its tokenizer's files (tokenizer.json, tokenizer.model or a "
                "vocabulary). Take the model that it was made of, or put them there: "
                "`tokenizer.save_pretrained(directory)`",
                provider=PROVIDER,
                model=spec.model,
            ) from error
        # In a GGUF file it is a part of the whole.
        if is_wordy(error) or of_hub(error) or source.gguf_file is not None:
            raise
        raise BadRequestError(
            f"transformers cannot load the model's tokenizer: {reason_of(error)}. Fetch its files "
            f"again, or save it there: `tokenizer.save_pretrained(directory)`",
            provider=PROVIDER,
            model=spec.model,
        ) from error


def _is_multimodal(model: Any) -> bool:
    return type(model.config) in transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING


def _processor_template(spec: LoadSpec, source: Source) -> str | None:
    """Return the chat template from where older multimodal models keep it."""
    hub = _picked(spec, source, (*_HUB, "revision", "subfolder", "token"))
    try:
        path = transformers.utils.cached_file(source.name, "chat_template.json", **hub)
    except OSError:
        return None
    template = json.loads(Path(path).read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else None


def _load_model(spec: LoadSpec, source: Source) -> Any:
    failures = count_failures()
    try:
        model = _load_weights(spec, source)
    except RuntimeError as error:
        if _UNCONVERTED in str(error) and count_failures() > failures:
            raise torch.OutOfMemoryError(str(error)) from error
        raise
    if model.config.is_encoder_decoder:
        raise BadRequestError(no_decoder(model.config), provider=PROVIDER, model=spec.model)
    # An encoder of the kind that may be used as a decoder, too, if it was trained for it.
    is_encoder = getattr(model.config, "is_decoder", None) is False
    if is_encoder and type(model).__name__ not in (model.config.architectures or ()):
        said = no_decoder(model.config, "only an encoder, which looks at a whole text at once")
        raise BadRequestError(said, provider=PROVIDER, model=spec.model)
    if source.adapter is not None:
        try:
            # The model's revision and subfolder are not the adapter's.
            add_adapter(model, source.adapter, spec, _picked(spec, source, (*_HUB, "token")))
        except (ImportError, OSError) as error:
            raise explain(error, spec, f"the adapter {source.adapter!r}") from error
    return model


def _load_weights(spec: LoadSpec, source: Source) -> Any:
    """Load a model that continues text, or one that takes images or audio, too."""

    def load_as(kind: Any) -> Any:
        options = _shared(spec, source) | _model_options(spec, source)
        model, found = kind.from_pretrained(source.name, output_loading_info=True, **options)
        # transformers fills what is missing with random numbers, and goes on.
        missing = sorted(found["missing_keys"])
        if missing:
            raise BadRequestError(
                f"{len(missing)} of the model's weights are in none of its files, such as "
                f"{missing[0]!r}: fetch it again, or take the model that its configuration "
                f"belongs to. To train them, load it yourself, and wrap it by from_obj()",
                provider=PROVIDER,
                model=spec.model,
            )
        return model

    try:
        return load_as(transformers.AutoModelForCausalLM)
    except ValueError as error:
        if _OTHER_KIND not in str(error):
            raise
        try:
            return load_as(transformers.AutoModelForMultimodalLM)
        except ValueError as other:
            raise (error if _OTHER_KIND in str(other) else other) from None


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


def _picked(spec: LoadSpec, source: Source, names: Collection[str]) -> dict[str, Any]:
    """Return those of the shared options that a file is looked up by."""
    return {name: value for name, value in _shared(spec, source).items() if name in names}


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
            load_in_8bit=spec.load_in_8bit,
            load_in_4bit=spec.load_in_4bit,
            bnb_4bit_compute_dtype=_compute_dtype(spec),
        )
    elif source.gguf_file is not None and hasattr(transformers, "GgufConfig"):
        # Releases without that class always unpack.
        options["quantization_config"] = transformers.GgufConfig(dequantize=spec.dequantize)
    # Its own, since from_pretrained() may change what it is given.
    own = copy.deepcopy(spec.model_kwargs)
    if isinstance(own.get("max_memory"), dict):
        # JSON has no integers as names, and GPUs are named by integers.
        own["max_memory"] = {
            int(device) if str(device).isdecimal() else device: limit
            for device, limit in own["max_memory"].items()
        }
    return options | {name: value for name, value in own.items() if name not in _SHARED}


def _compute_dtype(spec: LoadSpec) -> str | None:
    """Return what 4-bit weights are unpacked to for each step; None for single precision.

    GPUs compute several times as fast in half precision, CPUs several times as slowly.
    """
    on_gpu = torch.accelerator.is_available() and spec.device_map != "cpu"
    return spec.dtype if on_gpu and spec.dtype in ("bfloat16", "float16") else None


def _once(record: logging.LogRecord) -> bool:
    """Let bitsandbytes say once what it says at each layer of each step."""
    said = record.getMessage()
    is_new = said not in _told
    if said.startswith(_CASTS):
        _told.add(said)
    return is_new


def _import_bitsandbytes() -> None:
    """Check that it works here, of which transformers' own error says nothing."""
    try:
        importlib.import_module("bitsandbytes")
    # It loads libraries for the machine's accelerator, so it may raise anything.
    except Exception as error:
        raise MissingDependencyError(
            PROVIDER,
            f"bitsandbytes is installed, but does not work here: {reason_of(error)}. "
            f"Load without load_in_8bit and load_in_4bit, or see `python -m bitsandbytes`",
            "bitsandbytes",
        ) from error
