"""What goes into a call of litellm, and what cannot.

`GenerateParams` has OpenAI's names, which are litellm's, so there is nothing to rename.
``extra`` stands beside them; litellm passes what it does not know on to the endpoint.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final

from rigging.error import BadRequestError
from rigging_litellm._errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rigging.params import GenerateParams

__all__ = ["CHAT_ONLY", "dropped_silently", "refused_by_litellm", "request_arguments"]

# What text completions have no place for; litellm notices only some of it.
CHAT_ONLY: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls", "modalities", "audio"})

# Names in `extra` that would change what the generator itself promises -> what to do instead.
_RESERVED: Final[Mapping[str, str]] = {
    "api_key": "give the generator's api_key",
    "logger_fn": "it is the generator's own",
    "max_retries": "litellm's retries are off; wrap the pipeline",
    "messages": "give them to chat()",
    "model": "give the generator's model",
    "n": "use run_many()",
    "num_retries": "litellm's retries are off; wrap the pipeline",
    "prompt": "give it to complete()",
    "stream": "results come whole",
}

# What litellm checks for no model, and leaves out where it takes the model not to know it.
_UNCHECKED: Final = frozenset({"user"})

# litellm names the parameters, then says how to switch the check off with words of its own.
_ADVICE: Final = re.compile(r"To drop|If you want to use")


def request_arguments(params: GenerateParams) -> dict[str, Any]:
    """Return the keyword arguments that litellm takes for ``params``.

    Raises:
        BadRequestError: If ``extra`` holds a name that the generator sets itself.
    """
    # A copy through and through, because litellm edits tools and the like in place.
    arguments = copy.deepcopy(params.to_dict())
    for name in arguments:
        if name in _RESERVED:
            raise BadRequestError(
                f"extra.{name} cannot be set: {_RESERVED[name]}", provider=PROVIDER
            )
    if arguments.get("tools"):
        # Tools belong to the endpoint. litellm would first look for its own gateway among
        # them, which needs the package `mcp`.
        arguments["_skip_mcp_handler"] = True
    return arguments


def refused_by_litellm(error: BaseException, names: Iterable[str]) -> set[str]:
    """Return which of ``names`` litellm refused before sending; none for other errors."""
    if type(error).__name__ != "UnsupportedParamsError":
        return set()
    said = _ADVICE.split(str(error))[0]
    return {name for name in names if re.search(rf"\b{re.escape(name)}\b", said)}


def dropped_silently(litellm: Any, model: str, names: Iterable[str]) -> frozenset[str]:
    """Return which of ``names`` litellm would leave out of a chat without a word."""
    unchecked = _UNCHECKED.intersection(names)
    if not unchecked:
        return unchecked
    supported = litellm.get_supported_openai_params(model=model)
    return unchecked.difference(supported or unchecked)
