"""One request: what goes into its body, where it goes, and how long it may take.

`GenerateParams` has OpenAI's names, so there is nothing to rename; ``extra`` stands beside
them, and whatever an endpoint knows under a name can be said there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging.error import BadRequestError
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.params import GenerateParams
    from rigging_openai._endpoint import Endpoint

__all__ = ["Request", "request_arguments", "streamed", "whole"]

# What says where and how to send.
_NOT_SENT: Final = frozenset({"api_base", "timeout", "extra"})

# Names in `extra` that would change what the generator itself promises -> what to do instead.
_RESERVED: Final[Mapping[str, str]] = {
    "api_key": "give the generator's api_key",
    "extra_body": "what stands in extra is part of the body",
    "extra_headers": "give the generator's headers",
    "extra_query": "give the generator's query",
    "max_retries": "give the generator's max_retries",
    "messages": "give them to chat()",
    "model": "give the generator's model",
    "n": "use run_many()",
    "prompt": "give it to complete()",
    "stream": "use stream()",
}


class Request(NamedTuple):
    """A request, however its answer comes, and however often it is sent.

    Attributes:
        endpoint: Where it goes.
        path: Which of the endpoint's services.
        model: That is asked.
        prompt: What the body says whatever the endpoint takes.
        arguments: What the caller set beside it.
        timeout_s: The most seconds that the endpoint may take for all of it.
        connect_s: For the connection.
        read_s: Between two pieces of the answer.
        ca_file: The certificates to trust; None for those that the system trusts.
        most: The most bytes of the answer.
        announces: It is to be said when the request has left.
    """

    endpoint: Endpoint
    path: str
    model: str
    prompt: dict[str, Any]
    arguments: dict[str, Any]
    timeout_s: float | None
    connect_s: float | None
    read_s: float | None
    ca_file: str | None
    most: int
    announces: bool

    @property
    def key(self) -> tuple[str, str]:
        """What is refused together."""
        return self.endpoint.base, self.model

    @property
    def kind(self) -> tuple[str, str, str]:
        """What is learned about together: chats and texts may differ in what they take."""
        return self.endpoint.base, self.model, self.path


def request_arguments(params: GenerateParams) -> dict[str, Any]:
    """Return what a request says beside its model and its prompt.

    Raises:
        BadRequestError: If ``extra`` holds a name that the generator sets itself.
    """
    arguments = {
        name: value
        for name, value in params.__dict__.items()
        if value is not None and name not in _NOT_SENT
    }
    for name, value in params.extra.items():
        if name in _RESERVED:
            raise BadRequestError(
                f"extra.{name} cannot be set: {_RESERVED[name]}", provider=PROVIDER
            )
        arguments[name] = value
    return arguments


def whole(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a request whose answer comes whole."""
    if "stream_options" not in arguments:
        return arguments
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
