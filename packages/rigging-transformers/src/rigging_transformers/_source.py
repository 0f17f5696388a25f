"""What to load: the places that ``model`` and ``adapter`` name, and how they are loaded.

Everything here is checked before torch is imported, so a mistyped path costs no
start-up. A path that exists wins over a hub id of the same name, as in transformers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from rigging.error import MissingDependencyError, ModelNotFoundError

__all__ = ["PROVIDER", "LoadSpec", "Source", "locate", "require_modules"]

PROVIDER: Final = "transformers"

_PATH: Final = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")
_HUB_ID: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_NO_HUB_ID: Final = "no hub id either: those read 'name' or 'organisation/name'"

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
_ADAPTER_CONFIG: Final = ("adapter_config.json",)
_ADAPTER_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")


class Source(NamedTuple):
    """Places that transformers understands.

    Attributes:
        name: A hub id, or the path of a directory.
        gguf_file: The file in that directory that holds the whole model; None for others.
        adapter: A hub id, or the path of a directory; None for the model alone.
    """

    name: str
    gguf_file: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class LoadSpec:
    """The generator's fields that decide what is loaded; see `TransformersGenerator`."""

    model: str
    dtype: str | None = None
    device_map: str | int | dict[str, str | int] | None = None
    attn_implementation: str | None = None
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    dequantize: bool = True
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    # Another key does not make it another model.
    token: str | None = field(default=None, repr=False, compare=False)


def locate(
    model: str, *, adapter: str | None = None, revision: str | None = None, subfolder: str = ""
) -> Source:
    """Find out what ``model`` and ``adapter`` name, and that paths hold what is needed.

    Args:
        model: A hub id such as ``org/name``, a directory, or a ``.gguf`` file.
        adapter: A hub id, or a directory.
        revision: Which state of the hub's model is wanted.
        subfolder: Where in a directory the model is.

    Raises:
        ModelNotFoundError: If one is a path to nothing, a directory that lacks something,
            or neither a path nor a hub id; or if a path is to have a revision.
    """
    source = _locate_model(model, subfolder)
    if revision is not None and _path(model).exists():
        raise _not_found(model, f"a path has no revision {revision!r}: only the hub's models have")
    return source if adapter is None else source._replace(adapter=_locate_adapter(adapter, model))


def require_modules(spec: LoadSpec, source: Source) -> None:
    """Check that what the model needs is installed.

    Raises:
        MissingDependencyError: If it is not; the text says how to install it.
    """
    _require("torch", "the transformers provider", "rigging-transformers")
    _require("transformers", "the transformers provider", "rigging-transformers")
    if spec.device_map is not None:
        _require("accelerate", "device_map", "rigging-transformers")
    if spec.adapter is not None:
        _require("peft", "adapter", "'rigging-transformers[adapters]'")
    if source.gguf_file is not None:
        _require("gguf", "a GGUF file", "'rigging-transformers[gguf]'")
    if spec.load_in_8bit or spec.load_in_4bit:
        option = "load_in_8bit" if spec.load_in_8bit else "load_in_4bit"
        _require("accelerate", option, "rigging-transformers")
        _require("bitsandbytes", option, "'rigging-transformers[quantization]'")


def _path(name: str) -> Path:
    """Return the path that a name spells.

    Raises:
        ModelNotFoundError: If it cannot be a path, nor anything else.
    """
    try:
        path = Path(name).expanduser()
        path.lstat()
    except FileNotFoundError:
        pass  # a hub id, most likely
    except (OSError, RuntimeError, ValueError) as error:  # too long, or nobody's home
        raise _not_found(name, f"not a path that can be read: {error}") from error
    return path


def _locate_model(model: str, subfolder: str) -> Source:
    path = _path(model)
    if path.is_dir():
        _check_directory(path, model, subfolder)
        return Source(str(path))
    is_gguf = path.suffix.lower() == ".gguf"
    if path.is_file():
        if is_gguf and path.suffix != ".gguf":
            raise _not_found(model, "transformers reads files that end in .gguf: rename this one")
        if not is_gguf:
            raise _not_found(model, "a model is a directory or a .gguf file, and this is a file")
        return Source(str(path.parent), path.name)
    if is_gguf or _PATH.match(model):
        raise _not_found(model, f"no such file or directory: {path.absolute()}")
    if not _HUB_ID.fullmatch(model):
        raise _not_found(model, f"not a path that exists, and {_NO_HUB_ID}")
    return Source(model)


def _locate_adapter(adapter: str, model: str) -> str:
    path = _path(adapter)
    if path.is_dir():
        if not _has_any(path, _ADAPTER_CONFIG):
            raise _no_adapter(adapter, model, "the directory has no adapter_config.json")
        if not _has_any(path, _ADAPTER_WEIGHTS):
            raise _no_adapter(
                adapter, model, "the directory has no adapter_model.safetensors or .bin"
            )
        return str(path)
    if path.is_file():
        raise _no_adapter(adapter, model, "an adapter is a directory, and this is a file")
    if _PATH.match(adapter):
        raise _no_adapter(adapter, model, f"no such directory: {path.absolute()}")
    if not _HUB_ID.fullmatch(adapter):
        raise _no_adapter(adapter, model, f"not a path that exists, and {_NO_HUB_ID}")
    return adapter


def _check_directory(path: Path, model: str, subfolder: str) -> None:
    path /= subfolder
    if not path.is_dir():
        raise _not_found(model, f"the directory has no subfolder {subfolder!r}")
    if not _has_any(path, _CONFIG):
        files = sorted(path.glob("*.gguf"))
        hint = f" Name the file itself, e.g. {str(files[0])!r}." if files else ""
        if _has_any(path, _ADAPTER_CONFIG):
            hint = " It holds an adapter: name its base model here, and it as adapter=."
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


def _no_adapter(adapter: str, model: str, message: str) -> ModelNotFoundError:
    return _not_found(model, f"adapter {adapter!r}: {message}")


def _require(module: str, what: str, install: str) -> None:
    if find_spec(module) is None:
        raise MissingDependencyError(
            PROVIDER,
            f"{what} needs the package {module!r}, which is not installed. "
            f"Install it: `pip install {install}`.",
            module,
        )
