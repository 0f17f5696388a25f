"""Putting a PEFT adapter on a model. Imports torch: import this module late."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from rigging.error import BadRequestError
from rigging_transformers._load_errors import BROKEN, of_hub, reason_of
from rigging_transformers._memory import is_out_of_memory
from rigging_transformers._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging_transformers._source import LoadSpec

__all__ = ["add_adapter"]


def add_adapter(model: Any, adapter: str, spec: LoadSpec, hub: Mapping[str, Any]) -> None:
    """Load an adapter into a model, whose class stays as it is.

    Args:
        model: Of transformers.
        adapter: A directory, or a hub id.
        spec: What the model was loaded by.
        hub: By what the hub is asked.

    Raises:
        BadRequestError: If it does not fit the model.
        Exception: Whatever the hub's client raises, or peft where it is missing.
    """
    # load_adapter() would call it missing, whatever the reason.
    path = Path(transformers.utils.cached_file(adapter, "adapter_config.json", **hub))
    remedy = BROKEN
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        remedy = _remedy(config)
        _check_kind(config.get("peft_type"))
        found = model.load_adapter(**_options(path.parent, adapter, hub))
    except (ImportError, OSError):
        raise
    # Of whatever kind of adapter it is, it raises its own.
    except Exception as error:
        if is_out_of_memory(error) or of_hub(error):
            raise
        if type(error).__name__ == "SafetensorError":
            remedy = BROKEN
        raise _misfit(spec, adapter, reason_of(error), remedy) from error
    # transformers fills what is missing with random numbers, and goes on.
    for kind in ("missing", "unexpected"):
        names = sorted(getattr(found, f"{kind}_keys", ()))
        if names:
            reason = f"{len(names)} weights are {kind}, such as {names[0]}"
            raise _misfit(spec, adapter, reason, remedy)


def _options(found: Path, adapter: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``load_adapter`` is to be called with; in a directory, it reads no .bin."""
    weights = found / "adapter_model.bin"
    if not Path(adapter).is_dir() or (found / "adapter_model.safetensors").exists():
        return {"peft_model_id": adapter, "adapter_kwargs": hub}
    peft = importlib.import_module("peft")
    return {
        "peft_config": peft.PeftConfig.from_pretrained(adapter),
        "adapter_state_dict": torch.load(weights, map_location="cpu", weights_only=True),
    }


def _remedy(config: Mapping[str, Any]) -> str:
    """Return what to do with an adapter that does not fit, by its configuration."""
    if "num_virtual_tokens" in config:  # learned prompts, which are no part of any weights
        return "Load the two by peft, and wrap them by from_obj()"
    return (
        "If it was made for this model, merge the two by peft's merge_and_unload(), and load the "
        "result"
    )


def _check_kind(kind: object) -> None:
    """Check that peft knows what kind of adapter it is; it would raise a bare KeyError."""
    peft = importlib.import_module("peft")
    if kind not in [known.value for known in peft.PeftType]:
        raise ValueError(f"peft {peft.__version__} does not know its peft_type, {kind!r}")


def _misfit(spec: LoadSpec, adapter: str, reason: str, remedy: str) -> BadRequestError:
    return BadRequestError(
        f"the adapter {adapter!r} cannot be put on the model: {reason}. {remedy}",
        provider=PROVIDER,
        model=spec.model,
    )
