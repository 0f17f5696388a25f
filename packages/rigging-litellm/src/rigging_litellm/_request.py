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

__all__ = [
    "refused_by_litellm",
    "refuses_usage",
    "request_arguments",
    "streamed",
    "whole",
]

# Names in `extra` that would change what the generator itself promises -> what to do instead.
_RESERVED: Final[Mapping[str, str]] = {
    "api_key": "give the generator's api_key",
    "drop_params": "what a model does not take is left out anyway, with a warning",
    "logger_fn": "it is the generator's own",
    "max_retries": "give the generator's max_retries",
    "messages": "give them to chat()",
    "model": "give the generator's model",
    "n": "use run_many()",
    "num_retries": "give the generator's max_retries",
    "prompt": "give it to complete()",
    "stream": "use stream()",
}

# How endpoints answer to a parameter that they do not know.
_REFUSALS: Final = frozenset({400, 422})

# litellm names the parameters, then says how to switch the check off with words of its own.
_ADVICE: Final = re.compile(r"To drop|If you want to use")


def request_arguments(params: GenerateParams) -> dict[str, Any]:
    """Return the keyword arguments that litellm takes for ``params``.

    Raises:
        BadRequestError: If ``extra`` holds a name that the generator sets itself, or a class.
    """
    # A copy through and through, because litellm edits tools and the like in place.
    arguments = copy.deepcopy(params.to_dict())
    for name, value in arguments.items():
        if name in _RESERVED:
            raise BadRequestError(
                f"extra.{name} cannot be set: {_RESERVED[name]}", provider=PROVIDER
            )
        if isinstance(value, type):
            # litellm takes models of pydantic's, but the chat could not be saved with them.
            raise BadRequestError(
                f"extra.{name} is the class {value.__name__}: give its schema, as in "
                f"{{'type': 'json_schema', 'json_schema': {{'name': '{value.__name__}', "
                f"'schema': {value.__name__}.model_json_schema()}}}}",
                provider=PROVIDER,
            )
    if arguments.get("tools"):
        # Tools belong to the endpoint. litellm would first look for its own gateway among
        # them, which needs the package `mcp`.
        arguments["_skip_mcp_handler"] = True
    return arguments


def whole(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request whose answer comes whole."""
    # Endpoints refuse options of streams there, and a generator may have them for its others.
    return {name: value for name, value in arguments.items() if name != "stream_options"}


def streamed(arguments: Mapping[str, Any], *, with_usage: bool) -> dict[str, Any]:
    """Return the arguments of a request whose answer comes as a stream.

    Args:
        arguments: Those of a request, however its answer comes.
        with_usage: Ask for the usage, unless the caller has said what to ask for.
    """
    options = {"stream_options": {"include_usage": True}} if with_usage else {}
    return {**options, **arguments, "stream": True}


def refused_by_litellm(error: BaseException | None, names: Iterable[str]) -> set[str]:
    """Return which of ``names`` litellm refused before sending; none for other errors."""
    if type(error).__name__ != "UnsupportedParamsError":
        return set()
    said = _ADVICE.split(str(error))[0]
    return {name for name in names if re.search(rf"\b{re.escape(name)}\b", said)}


def refuses_usage(error: BaseException | None) -> bool:
    """Return whether the model or its endpoint takes no wish for the usage of a stream."""
    return getattr(error, "status_code", None) in _REFUSALS and "stream_options" in str(error)
