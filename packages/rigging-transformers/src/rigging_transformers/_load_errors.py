"""Why a model does not load, in the errors of `rigging.error`.

transformers raises ``OSError`` for a missing model, a gated one and a missing network alike.
Imports torch: import this module late.
"""

from __future__ import annotations

import errno
import json
import re
import shlex
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

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
from rigging.http import error_class
from rigging_transformers._memory import is_out_of_memory
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rigging_transformers._source import LoadSpec

__all__ = ["BROKEN", "GGUF", "explain", "is_wordy", "of_hub", "reason_of"]

#: What is said of a file that cannot be read.
BROKEN: Final = "The file may be broken: fetch it again"
#: What a model in one file is called.
GGUF: Final = "the GGUF file"

# Statuses that the hub answers with -> what it means.
_STATUSES: Final[Mapping[int, str]] = {
    401: "the hub does not accept the token (api_key, or HF_TOKEN)",
    403: "the hub does not let you have {what}",
    429: "the hub has too many requests of yours: wait, or log in",
}

# A class somewhere behind transformers' OSError (the hub's or its client's, by name, since their
# packages are transformers' dependencies and not ours) -> what it means. The first that fits
# counts.
_REASONS: Final[Mapping[str, tuple[type[GenerationError], str]]] = {
    "GatedRepoError": (
        PermissionDeniedError,
        "{what} is gated: ask for access on its page, then log in with `hf auth login` or "
        "give api_key (a hub token)",
    ),
    "RepositoryNotFoundError": (
        ModelNotFoundError,
        "the hub does not have {what}, or it is private and api_key (a hub token) is missing",
    ),
    "LocalEntryNotFoundError": (
        ProviderConnectionError,
        "{what} is not in the local cache, and the hub cannot be reached or HF_HUB_OFFLINE is "
        "set. Check the connection, or name a path on this machine",
    ),
    "TransportError": (
        ProviderConnectionError,
        "the connection to the hub broke off while {what} was asked for: try again",
    ),
}
_NOT_THERE: Final = ("GatedRepoError", "RepositoryNotFoundError")

# Errors of these classes say in words what is wrong; others need their class beside them.
_WORDY: Final = (ImportError, OSError, RuntimeError, TypeError, ValueError)
_NOT_WORDY: Final = (json.JSONDecodeError, UnicodeDecodeError)  # they name no file

# Values of attn_implementation -> the module that they need, and where it comes from.
_ATTENTION: Final[Mapping[str, tuple[str, str]]] = {
    "flash_attention_2": ("flash_attn", "`pip install flash-attn`"),
    "flash_attention_3": ("flash_attn_interface", "FlashAttention 3, which you build yourself"),
    "flash_attention_4": ("flash_attn", "`pip install --pre flash-attn-4`"),
}
# The package that transformers makes of the code of models.
_OWN_CODE: Final = "transformers_modules"
# The least status of an answer that says the server is at fault.
_SERVER_FAILED: Final = 500
_INSTALL: Final = re.compile(r"pip install (?:-U )?(([\w.-]+)[^\s`'\")]*)")
# Of texts about files that are no files of torch's, which end in advice that is none.
_NO_WEIGHTS: Final = ("UnpicklingError", "EOFError", "BadZipFile")
# Of those, and of other files.
_ODD: Final = (*_NO_WEIGHTS, "JSONDecodeError", "SafetensorError")


def explain(error: Exception, spec: LoadSpec, what: str) -> RiggingError:
    """Return the error for what kept a model, or a part of it, from loading.

    Args:
        error: What transformers raised, or what it calls.
        spec: What was to be loaded.
        what: What did not load, in words.
    """
    if any(map(is_out_of_memory, _chain(error))):
        return ProviderServerError(
            "out of memory while loading: try dtype=bfloat16, load_in_8bit=true or device_map=auto",
            provider=PROVIDER,
            model=spec.model,
            retryable=False,
        )
    answer = of_hub(error)
    if answer is not None:
        kind, message = answer
        return kind(message.format(what=what), provider=PROVIDER, model=spec.model)
    if isinstance(error, ImportError) and _names_a_package(error):
        return _missing(error, spec, what)
    reason = reason_of(error)
    if "trust_remote_code=True" in str(error) and not spec.trust_remote_code:
        reason = (
            "it comes with code of its own, which is run only with trust_remote_code=true. "
            "Look at the code first, and set it if you trust its authors"
        )
    # What is there and cannot be read is not missing.
    is_there = "valid JSON" in str(error) or getattr(error, "errno", None) == errno.EINVAL
    kind = ModelNotFoundError if isinstance(error, OSError) and not is_there else BadRequestError
    is_odd = not _class_names(error).isdisjoint(_ODD)
    if is_there or is_odd or (what == GGUF and not is_wordy(error)):
        reason += f". {BROKEN}"
    return kind(f"transformers cannot load {what}: {reason}", provider=PROVIDER, model=spec.model)


def of_hub(error: BaseException) -> tuple[type[GenerationError], str] | None:
    """Return what the hub said, or that it said nothing; None if it is not about the hub."""
    known = _class_names(error)
    if known.isdisjoint(_NOT_THERE):
        for cause in _chain(error):
            status = getattr(getattr(cause, "response", None), "status_code", 0)
            if status in _STATUSES:
                return error_class(status), _STATUSES[status]
            if status >= _SERVER_FAILED:
                return ProviderServerError, f"the hub fails ({status}): try again later"
    return next((_REASONS[name] for name in _REASONS if name in known), None)


def _names_a_package(error: ImportError) -> bool:
    """Tell whether it is a package that is missing, and not a name within one, or a GPU."""
    is_attention = "FlashAttention" in str(error)
    is_module = isinstance(error, ModuleNotFoundError) and not str(error.name).startswith(_OWN_CODE)
    return is_module or is_attention or _INSTALL.search(str(error)) is not None


def _missing(error: ImportError, spec: LoadSpec, what: str) -> MissingDependencyError:
    module, origin = _ATTENTION.get(spec.attn_implementation or "", ("", ""))
    if module and find_spec(module) is None:
        return MissingDependencyError(
            PROVIDER,
            f"attn_implementation={spec.attn_implementation!r} needs the module {module!r}, which "
            f"is not installed: {origin}. Or `pip install kernels`, with which transformers "
            f"fetches it from the hub, or leave attn_implementation out",
            module,
        )
    named = _INSTALL.search(str(error))
    missing = error.name or (named[2] if named else "")
    if named is None:
        install = f"{reason_of(error)}. Install it: `pip install {missing.partition('.')[0]}`"
    else:
        install = _INSTALL.sub(lambda line: f"pip install {_quoted(line[1])}", reason_of(error))
    return MissingDependencyError(
        PROVIDER,
        f"transformers cannot load {what} ({spec.model}) without a package: {install}",
        missing,
    )


def _quoted(requirement: str) -> str:
    """Return a requirement as a shell reads it; for what an extra of ours brings, that."""
    if requirement.startswith("bitsandbytes"):
        return "'rigging-transformers[quantization]'"
    requirement = requirement.rstrip(".,")
    return shlex.quote(requirement)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _class_names(error: BaseException) -> set[str]:
    """Return the names of the classes of an error and of what led to it."""
    return {cls.__name__ for cause in _chain(error) for cls in type(cause).__mro__}


def is_wordy(error: Exception) -> bool:
    """Tell whether an error says by itself what is wrong."""
    return isinstance(error, _WORDY) and not isinstance(error, _NOT_WORDY)


def reason_of(error: Exception) -> str:
    """Return what an error says, without a full stop: its first line, in most cases."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = lines[0] if lines else ""
    if text.endswith(":"):  # of a list
        text = " ".join(lines)
    text = text.rstrip(". ")
    if type(error).__name__ in _NO_WEIGHTS:
        return "a file of weights is no file of torch's"
    if "ignore_mismatched_sizes" in text:
        return "the weights have other shapes than the model; transformers' log lists them"
    cls = type(error)
    if text and (is_wordy(error) or cls is Exception):
        return text
    return f"{cls.__name__}: {text}" if text else cls.__name__
