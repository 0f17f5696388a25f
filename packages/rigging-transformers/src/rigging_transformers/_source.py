"""What to load: the place that ``model`` names, and how it is to be loaded.

Everything here is checked before torch is imported, so a mistyped path costs no
start-up. A path that exists wins over a hub id of the same name, as in transformers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from rigging.error import MissingDependencyError, ModelNotFoundError

__all__ = ["PROVIDER", "LoadSpec", "Source", "locate", "require_modules"]

PROVIDER: Final = "transformers"

_PATH: Final = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")
_HUB_ID: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)?")

# One file of each group has to be there.
_CONFIG: Final = ("config.json",)
_TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.*",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
)
_WEIGHTS: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
)


class Source(NamedTuple):
    """A place that ``from_pretrained`` understands.

    Attributes:
        name: A hub id, or the path of a directory.
        gguf_file: The file in that directory that holds the whole model; None for others.
    """

    name: str
    gguf_file: str | None = None


@dataclass(frozen=True)
class LoadSpec:
    """The generator's fields that decide what is loaded; see `TransformersGenerator`."""

    model: str
    dtype: str | None = None
    device_map: str | int | dict[str, str | int] | None = None
    trust_remote_code: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    dequantize: bool = True
    # Another key does not make it another model.
    token: str | None = field(default=None, repr=False, compare=False)


def locate(model: str) -> Source:
    """Find out what ``model`` names, and that a path holds what is needed.

    Args:
        model: A hub id such as ``org/name``, a directory, or a ``.gguf`` file.

    Raises:
        ModelNotFoundError: If it is a path to nothing, a directory that lacks
            configuration, tokenizer or weights, or neither a path nor a hub id.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        _check_directory(path, model)
        return Source(str(path))
    is_gguf = path.suffix.lower() == ".gguf"
    if path.is_file():
        if not is_gguf:
            raise _not_found(model, "a model is a directory or a .gguf file, and this is a file")
        return Source(str(path.parent), path.name)
    if is_gguf or _PATH.match(model):
        raise _not_found(model, f"no such file or directory: {path.absolute()}")
    if not _HUB_ID.fullmatch(model):
        raise _not_found(
            model,
            "not a path that exists, and no hub id either: those read 'name' or "
            "'organisation/name'",
        )
    return Source(model)


def require_modules(spec: LoadSpec, source: Source) -> None:
    """Check that what the model needs is installed.

    Raises:
        MissingDependencyError: If it is not; the text says how to install it.
    """
    _require("torch", "the transformers provider", "rigging-transformers")
    _require("transformers", "the transformers provider", "rigging-transformers")
    if spec.device_map is not None:
        _require("accelerate", "device_map", "rigging-transformers")
    if source.gguf_file is not None:
        _require("gguf", "a GGUF file", "'rigging-transformers[gguf]'")
    if spec.load_in_8bit or spec.load_in_4bit:
        option = "load_in_8bit" if spec.load_in_8bit else "load_in_4bit"
        _require("accelerate", option, "rigging-transformers")
        _require("bitsandbytes", option, "'rigging-transformers[quantization]'")


def _check_directory(path: Path, model: str) -> None:
    if not _has_any(path, _CONFIG):
        files = sorted(path.glob("*.gguf"))
        hint = f" Name the file itself, e.g. {str(files[0])!r}." if files else ""
        raise _not_found(model, f"the directory has no config.json, so it holds no model.{hint}")
    if not _has_any(path, _TOKENIZER):
        raise _not_found(
            model,
            "the directory has no tokenizer (tokenizer.json, tokenizer_config.json, "
            "tokenizer.model or a vocabulary). Save it there: "
            "`tokenizer.save_pretrained(directory)`",
        )
    if not _has_any(path, _WEIGHTS):
        raise _not_found(
            model,
            "the directory has no weights (*.safetensors or pytorch_model*.bin). Save them "
            "there: `model.save_pretrained(directory)`",
        )


def _has_any(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(path.glob(pattern), None) for pattern in patterns)


def _not_found(model: str, message: str) -> ModelNotFoundError:
    return ModelNotFoundError(message, provider=PROVIDER, model=model)


def _require(module: str, what: str, install: str) -> None:
    if find_spec(module) is None:
        raise MissingDependencyError(
            PROVIDER,
            f"{what} needs the package {module!r}, which is not installed. "
            f"Install it: `pip install {install}`.",
            module,
        )
