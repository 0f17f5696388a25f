"""What an author's test file says about a backend, found out by looking at it and asking it."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import TYPE_CHECKING, Any, Final

from rigging._text import nearest
from rigging.cli._exits import UsageError
from rigging.error import RiggingError, UnsupportedParameterWarning
from rigging.generator import Generator
from rigging.params import GenerateParams
from rigging.testing import SlowRequest
from rigging.testing._contract._kinds import KINDS, Kind
from rigging.testing._contract._parameters import VALUES
from rigging.testing._contract._subject import PROMPTS, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["find_settings", "switches"]

# How each switch of the contract is at first.
_SWITCHES: Final[Mapping[str, bool]] = {
    name: value
    for name, value in vars(Subject).items()
    if isinstance(value, bool) and name != "refuses_a_kind"  # which follows from the others
}
_SHORT: Final = GenerateParams(max_tokens=4)
# Without the other, endpoints refuse it.
_WITH_TOOLS: Final = frozenset({"tool_choice", "parallel_tool_calls"})
# Behind an address at which there is nothing, a provider may try again and again.
_PATIENCE_S: Final = 5.0


def switches(on: Iterable[str], off: Iterable[str]) -> dict[str, bool]:
    """Return switches of the contract, by name.

    Raises:
        UsageError: If the contract has no such switch.

    Example:
        >>> switches(["supports_tools"], ["takes_time"])
        {'supports_tools': True, 'takes_time': False}
    """
    wanted = {**dict.fromkeys(on, True), **dict.fromkeys(off, False)}
    for name in wanted:
        if name not in _SWITCHES:
            near = nearest(name, _SWITCHES)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_SWITCHES)}"
            raise UsageError(f"the contract has no switch {name!r}: {hint}")
    return wanted


async def find_settings(generator: Generator, wanted: Mapping[str, bool]) -> dict[str, Any]:
    """Return attributes of the contract that fit a generator.

    How a request fails cannot be found out from outside, so ``can_fail`` is off.

    Args:
        generator: Is asked some twenty times, with each of the parameters.
        wanted: Switches that are known.

    Raises:
        UsageError: If it continues neither conversations nor texts.
        Exception: As the generator does, if it does not answer at all.
    """
    found: dict[str, Any] = {
        **{f"supports_{kind.name}": _has(generator, "generate", kind) for kind in KINDS},
        **wanted,
    }
    kinds = [kind for kind in KINDS if found[f"supports_{kind.name}"]]
    if not kinds:
        raise UsageError("what continues neither conversations nor texts cannot be checked")
    await kinds[0].ask(generator, PROMPTS[0], GenerateParams())  # or there is nothing to look at
    # What was said of conversations is not said again: the second set is what texts lack, too.
    unsupported, *in_texts = [await _left_out(generator, kind) for kind in kinds]
    found["supports_streaming"] = all(_has(generator, "stream", kind) for kind in kinds)
    found |= {f"supports_{name}": False for name in unsupported if f"supports_{name}" in _SWITCHES}
    found["takes_time"] = await _takes_time(generator, kinds[0])
    found["can_fail"] = False
    found["unsupported_params"] = unsupported
    found["unsupported_in_texts"] = frozenset().union(*in_texts)
    return {**found, **wanted}


def _has(generator: Generator, what: str, kind: Kind) -> bool:
    name = f"{what}_{kind.name}"
    return getattr(type(generator), name) is not getattr(Generator, name)


async def _takes_time(generator: Generator, kind: Kind) -> bool:
    """Tell whether a request that asks for very much is still running after a moment."""
    slow = SlowRequest()
    try:
        async with asyncio.timeout(slow.after_s):
            await kind.ask(generator, slow.prompt, slow.params)
    except TimeoutError:
        return True
    except RiggingError:  # such as: it takes no such number of tokens
        return False
    return False


async def _left_out(generator: Generator, kind: Kind) -> frozenset[str]:
    """Return the parameters that the generator warns about, or refuses by name."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The address last, with the model loaded: the limit is there for nothing else.
        for name in sorted(VALUES, key="api_base".__eq__):
            tools = {"tools": VALUES["tools"]} if name in _WITH_TOOLS else {}
            params = _SHORT.merge_with(GenerateParams(**{**tools, name: VALUES[name]}))
            limit = asyncio.timeout(_PATIENCE_S if name == "api_base" else None)
            with contextlib.suppress(TimeoutError):
                try:
                    async with limit:
                        await kind.ask(generator, PROMPTS[0], params)
                except RiggingError as error:
                    said.append(str(error))
    said += [str(w.message) for w in caught if issubclass(w.category, UnsupportedParameterWarning)]
    return frozenset(name for name in VALUES if any(repr(name) in text for text in said))
