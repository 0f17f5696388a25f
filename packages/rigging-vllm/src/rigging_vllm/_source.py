"""The place that ``model`` names, checked before vLLM is imported.

vLLM takes half a minute to find out that a path is mistyped; this takes none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from rigging.error import ModelNotFoundError

__all__ = ["PROVIDER", "locate"]

PROVIDER: Final = "vllm"

_PATH: Final = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")
_HUB_ID: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_URL: Final = re.compile(r"[a-z][a-z0-9+]*://")  # object stores, which vLLM can read from

# What a directory must hold: in words, and the files of which one has to be there.
_NEEDED: Final = (
    ("configuration (config.json)", ("config.json", "params.json")),
    (
        "tokenizer (tokenizer.json or the like)",
        (
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model*",
            "vocab.*",
            "*.tiktoken",
            "tiktoken.model",
            "tekken.json",
        ),
    ),
    ("weights (*.safetensors or the like)", ("*.safetensors", "*.bin", "*.pt", "*.gguf")),
)


def locate(model: str) -> str:
    """Return what vLLM is to load.

    Args:
        model: A hub id such as ``org/name``, a directory, a ``.gguf`` file, or a URL.

    Returns:
        The same, with ``~`` of a path resolved.

    Raises:
        ModelNotFoundError: If it is a path to nothing, a directory that lacks something,
            or neither a path nor a hub id.
    """
    if _URL.match(model):
        return model
    try:
        path = Path(model).expanduser()
        path.lstat()
    except FileNotFoundError:
        pass  # a hub id, most likely
    except (OSError, RuntimeError, ValueError) as error:  # too long, or nobody's home
        raise _not_found(model, f"not a path that can be read: {error}") from error
    if path.is_dir():
        for what, patterns in _NEEDED:
            if not any(next(path.glob(pattern), None) for pattern in patterns):
                raise _not_found(model, f"the directory has no {what}")
        return str(path)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return str(path)
        raise _not_found(model, "a model is a directory or a .gguf file, and this is a file")
    # `org/name:Q4_K_M` and `org/name/file.gguf` on the hub are left to vLLM.
    if _PATH.match(model) or (path.suffix.lower() == ".gguf" and model.count("/") < 2):
        raise _not_found(model, f"no such file or directory: {path.absolute()}")
    if not (_HUB_ID.fullmatch(model.partition(":")[0]) or model.endswith(".gguf")):
        raise _not_found(
            model,
            "not a path that exists, and no hub id either: those read 'name' or "
            "'organisation/name'",
        )
    return model


def _not_found(model: str, message: str) -> ModelNotFoundError:
    return ModelNotFoundError(message, provider=PROVIDER, model=model)
