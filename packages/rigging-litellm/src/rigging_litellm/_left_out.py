"""Which parameters litellm refuses for a model, or leaves out without a word."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, Final

from rigging.params import GenerateParams
from rigging_litellm._models import provider_of
from rigging_litellm._request import refused_by_litellm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LeftOut"]

# What says where and how to send, which is not mapped.
_UNMAPPED: Final = frozenset(
    {
        "api_base",
        "api_version",
        "base_url",
        "default_headers",
        "deployment_id",
        "extra_headers",
        "organization",
        "request_timeout",
        "stream_options",
        "timeout",
    }
)


class LeftOut:
    """What is found out about parameters of chats.

    There is no list: a parameter is left out if litellm makes the same request with and
    without it. What comes of a parameter is remembered by the kind of its value.
    """

    def __init__(self) -> None:
        self._dropped: dict[tuple[str, ...], bool] = {}

    async def find(self, litellm: Any, model: str, arguments: Mapping[str, Any]) -> frozenset[str]:
        """Return which of the ``arguments`` of a call would be left out."""
        mapped = GenerateParams.model_fields.keys() | litellm.OPENAI_CHAT_COMPLETION_PARAMS
        mapped -= _UNMAPPED | set(arguments.get("allowed_openai_params", ()))
        given = {name: arguments[name] for name in mapped & arguments.keys()}
        kinds = {name: (model, *_kind(name, value)) for name, value in given.items()}
        new = [name for name, kind in kinds.items() if kind not in self._dropped]
        if new:
            # In a thread, because litellm imports what it needs for a provider.
            found = await asyncio.to_thread(_left_out, litellm, model, given, new)
            self._dropped.update({kinds[name]: name in found for name in new})
        return frozenset(name for name, kind in kinds.items() if self._dropped[kind])


def _left_out(
    litellm: Any, model: str, given: Mapping[str, Any], names: Iterable[str]
) -> frozenset[str]:
    """Return which of ``names`` make no difference to what litellm makes of ``given``."""
    found = provider_of(litellm, model)
    if found is None:
        return frozenset()
    model, provider = found

    def mapped(*names: str) -> dict[str, Any]:
        made: dict[str, Any] = litellm.utils.get_optional_params(
            model=model,
            custom_llm_provider=provider,
            **copy.deepcopy({name: given[name] for name in names}),
        )
        made.pop("json_mode", None)  # a note of litellm's to itself, which is not sent
        return made

    def is_left_out(name: str) -> bool:
        # Alone, since one may say what another says, but for what it is about.
        others = {"tools"} & given.keys() - {name}
        try:
            made = mapped(name, *others)
            # Without it, litellm may put in the same value by itself.
            return made == mapped(*others) and made.get(name) != given[name]
        except Exception as error:  # noqa: BLE001 (a bad value comes to light in the request)
            return bool(refused_by_litellm(error, [name]))

    return frozenset(filter(is_left_out, names))


def _kind(name: str, value: Any) -> tuple[str, ...]:
    """Return what a value has in common with others that become of the same."""
    if isinstance(value, dict):
        of = str(value.get("type"))
    elif isinstance(value, str | bool) and name != "user":  # of which there are only a few
        of = str(value)
    elif isinstance(value, float):
        of = str(value in {0.0, 1.0})
    else:
        of = str(bool(value)) if isinstance(value, list) else ""
    return (name, type(value).__name__, of)
