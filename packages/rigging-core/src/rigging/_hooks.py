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
    from collections.abc import Callable, Collection, Iterator

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
        ignored = self._ignored(plugin)
        if ignored is not None:
            raise InvalidPluginError(f"{_shown(plugin)} {ignored}")
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

    def _ignored(self, plugin: object) -> str | None:
        """Say what of a plugin pluggy would pass over, or call without its object."""
        if isinstance(plugin, type):
            return f"is a class: register an object of it, such as `{plugin.__name__}()`"
        for name in self._known:
            held = getattr(plugin, name, None)  # None says no to a parent's
            if held is not None and not _is_function(held):
                return (
                    f"has a {type(held).__name__} as {name!r}, whose arguments cannot be told: "
                    f"write a function with those that it needs"
                )
        return None

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
                never = _never_runs(implementation.function, caller.name)
                if never is not None:
                    return never
                if caller.spec is None:
                    continue
                lost = _not_given(
                    implementation.function, implementation.argnames, caller.spec.argnames
                )
                if lost is not None:
                    wanted = ", ".join(caller.spec.argnames)
                    return (
                        f"has {lost!r} as an argument of {caller.name!r}, which it is never given: "
                        f"write any of ({wanted}), without a default"
                    )
        return None


def _is_function(held: object) -> bool:
    # Builtins have no code of which pluggy could read the arguments.
    return inspect.isroutine(held) and hasattr(inspect.unwrap(held), "__code__")


def _never_runs(function: Callable[..., object], name: str) -> str | None:
    """Say why the body of a function would never run when it is called."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"has `async def {name}`: hooks are called at once, write `def`"
    if inspect.isgeneratorfunction(function):
        return f"has a `yield` in {name!r}: it would make a generator that nobody runs"
    return None


def _not_given(
    function: Callable[..., object], given: Collection[str], known: Collection[str]
) -> str | None:
    """Return the parameter that looks as if it got an argument of the hook, and gets none.

    Arguments are given by position, and to those without a default.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have none
        return None
    for parameter in parameters:
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        is_needed = not is_variadic and parameter.default is parameter.empty
        if parameter.name in given:
            continue
        if is_needed or parameter.name in known or (is_variadic and known and not given):
            return f"*{parameter.name}" if is_variadic else parameter.name
    return None


def _of_all_arguments(
    function: Callable[..., object], positions: list[int]
) -> Callable[..., object]:
    return lambda *arguments: function(*(arguments[position] for position in positions))


def _shown(plugin: object) -> str:
    name = getattr(plugin, "__name__", None)
    return f"the plugin {name!r}" if name else f"a plugin of {type(plugin).__qualname__}"
