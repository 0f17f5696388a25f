"""Hooks as pluggy keeps them: what a plugin implements, checked and put in order.

Apart from `rigging.plugins`, because importing pluggy costs more than a process without
plugins should pay.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import pluggy

from rigging._text import nearest
from rigging.error import InvalidPluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PREFIX", "HookManager"]

#: How the names of hooks begin.
PREFIX: Final = "rigging_"

_NO_OPTIONS: Final = {
    "wrapper": False,
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "specname": None,
}


class HookManager(pluggy.PluginManager):
    """The plugins of a process. A function whose name is a hook's implements it, unmarked.

    ``pluggy.HookimplMarker("rigging")`` serves for options: ``tryfirst``, ``trylast``,
    ``optionalhook``.

    Args:
        specs: A class with a method for each hook.
    """

    def __init__(self, specs: type) -> None:
        super().__init__("rigging")
        self.add_hookspecs(specs)
        self._known = [name for name in dir(specs) if name.startswith(PREFIX)]

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:  # noqa: ARG002 (pluggy's)
        """Take every method with the prefix for a hook."""
        return {} if name.startswith(PREFIX) else None

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Take every function with the prefix for an implementation."""
        options = super().parse_hookimpl_opts(plugin, name)
        is_hook = name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name, None))
        return dict(_NO_OPTIONS) if options is None and is_hook else options

    def add(self, plugin: object, name: str | None) -> str:
        """Register a plugin; return its name.

        Raises:
            InvalidPluginError: If it implements no hook, or one in a wrong way.
        """
        was_there = self.is_registered(plugin)
        try:
            added = self.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            if not was_there and self.is_registered(plugin):
                self.unregister(plugin)
            reason = " ".join(str(error).split())  # pluggy writes several lines
            raise InvalidPluginError(f"{_shown(plugin)} cannot be registered: {reason}") from error
        if added is None:
            raise InvalidPluginError(f"the plugin {name!r} is blocked")
        fault = self._fault(plugin)
        if fault is not None:
            self.unregister(plugin)
            raise InvalidPluginError(f"{_shown(plugin)} {fault}")
        return added

    def implementations(self, hook: str) -> Iterator[tuple[str, Callable[..., object]]]:
        """Yield the plugins that implement a hook, as functions of all its arguments.

        In the order in which pluggy would call them.
        """
        caller = getattr(self.hook, hook)
        wanted = caller.spec.argnames
        for implementation in reversed(caller.get_hookimpls()):
            function, given = implementation.function, implementation.argnames
            if tuple(given) != tuple(wanted):
                function = _of_all_arguments(function, [wanted.index(name) for name in given])
            yield implementation.plugin_name, function

    def _fault(self, plugin: object) -> str | None:
        callers = self.get_hookcallers(plugin) or []
        if not callers:
            return f"has no hook: expected functions such as {', '.join(self._known[:3])}"
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                if not caller.has_spec() and not implementation.optionalhook:
                    near = nearest(caller.name, self._known)
                    hint = f"did you mean {near!r}? " if near else ""
                    known = ", ".join(self._known)
                    return f"has {caller.name!r}, which is no hook; {hint}(hooks: {known})"
                if implementation.wrapper or implementation.hookwrapper:
                    return f"wraps {caller.name!r}: listeners do not wrap each other"
                if inspect.iscoroutinefunction(implementation.function):
                    return f"has `async def {caller.name}`: hooks are called at once, write `def`"
        return None


def _of_all_arguments(
    function: Callable[..., object], positions: list[int]
) -> Callable[..., object]:
    return lambda *arguments: function(*(arguments[position] for position in positions))


def _shown(plugin: object) -> str:
    name = getattr(plugin, "__name__", None)
    return f"the plugin {name!r}" if name else f"a plugin of {type(plugin).__qualname__}"
