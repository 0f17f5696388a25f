"""Plugins: who listens to what happens in a run, or adds to what there is.

A plugin is a module or an object whose functions have the names of `Hooks`. It is installed,
as an entry point of the group ``rigging.plugins``, or registered in process:

>>> class Counter:
...     finished = 0
...
...     def rigging_request_finished(self, event):
...         self.finished += 1
>>> import rigging as rg
>>> counter = Counter()
>>> with rg.plugins.manager.register(counter):
...     chat = rg.testing.EchoGenerator(model="any").chat("Hi").run_sync()
>>> counter.finished
1

Installed plugins are loaded when the first generator is made or run, each for itself: one
that cannot be loaded is warned about and left out. The variable ``RIGGING_PLUGINS=a,b`` names
those to load, and ``RIGGING_DISABLE_PLUGINS=1`` loads none; what is left out is not imported.

pluggy keeps plugins, checks their arguments and puts them in order. What it does not do is
call them: its calls end at the first plugin that raises.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import warnings
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final

from rigging._text import nearest
from rigging.error import RiggingWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from rigging._hooks import HookManager
    from rigging._installed import Claim
    from rigging.events import (
        ModelLoaded,
        ModelUnloaded,
        RequestFailed,
        RequestFinished,
        RequestStarted,
    )

__all__ = [
    "HARMLESS",
    "Hooks",
    "Listener",
    "PluginManager",
    "PluginRegistration",
    "call_each",
    "manager",
]

_GENERATORS: Final = "rigging_register_generators"
_OFF: Final = frozenset({"", "0", "false", "no", "off"})

#: What a stranger's code may raise without harm to a run, not even by leaving. No hook is
#: cancelled: it waits for nothing. What remains is Ctrl-C, which is the user's.
HARMLESS: Final = (Exception, SystemExit, CancelledError)

# Told in the reverse order, as context managers end: a context variable that is set at the
# start is reset by who set it last.
_ENDS: Final = frozenset(
    {"rigging_request_finished", "rigging_request_failed", "rigging_request_content"}
)


class Hooks:
    """What a plugin may implement: functions of a module, or an object's methods, of these names.

    The contract of them all:

    - They are called synchronously, in the middle of a run: be quick, and never block. What
      takes time belongs into a thread or a queue of the plugin's own.
    - Each listener is called for itself. One that raises is warned about, once
      (`RiggingWarning`), and neither the run nor another listener notices.
    - Who listens when a run begins is told of all its requests, unregistered meanwhile or not;
      who is registered later is told of the next run's.
    - Arguments are the caller's to keep, and immutable unless it says so below.
    - Arguments that are not needed may be left out of the signature; none has a default.
    - The order is pluggy's: who was registered last is called first; ``tryfirst`` and
      ``trylast`` of ``pluggy.HookimplMarker("rigging")`` change that. A request's end
      (finished, failed, content) is told in the reverse order, so that two plugins that each
      set a context variable at its start reset it as nested ``with`` blocks would.

    Requests are those of pipelines. Each attempt of a decorator given to ``wrap``, each round
    of ``until`` and each nested run is a request of its own; what a provider tries again by
    itself is not. For each `rigging_request_started` there is exactly one
    `rigging_request_finished` or `rigging_request_failed`.

    Source:
        pluggy's documentation, "Implementations".
    """

    def rigging_request_started(self, event: RequestStarted) -> None:
        """A request goes to its generator. On the run's event loop, in the request's context."""

    def rigging_request_finished(self, event: RequestFinished) -> None:
        """A request was answered. On the run's event loop, in the request's context."""

    def rigging_request_failed(self, event: RequestFailed) -> None:
        """A request failed, or was cancelled. As `rigging_request_finished`."""

    def rigging_request_content(self, event: RequestStarted, given: Any, result: Any) -> None:
        """Show what was sent and what came back, just before `rigging_request_finished`.

        The only hook that gets texts. Implement it only where somebody has asked for them.

        Args:
            event: What was told when the request started.
            given: The conversation, a tuple of `rigging.Message`, or a str.
            result: The `rigging.GeneratedMessage`, or `rigging.GeneratedText`. Its ``extra``
                is the run's, and so is the ``metadata`` of messages: leave them as they are.
        """

    def rigging_model_loaded(self, event: ModelLoaded) -> None:
        """A model was brought into memory. On the thread that did it, which may be any.

        The model waits meanwhile: who loads, unloads or asks it starts a thread for that.
        """

    def rigging_model_unloaded(self, event: ModelUnloaded) -> None:
        """A model's memory was given back. As `rigging_model_loaded`."""

    def rigging_register_generators(self, register: Callable[..., object]) -> None:
        """Register generators in process. Once, when the plugin is loaded.

        Args:
            register: As `rigging.register_generator`, of a name and a class, or of a name and
                a callable that returns the class. Undone when the plugin is unregistered.
        """

    def rigging_add_commands(self, app: Any) -> None:
        """Add commands to the command line. Once, when it starts.

        Args:
            app: The command line's own object, to be changed.
        """


class Listener:
    """One plugin's implementation of one hook.

    Attributes:
        plugin: The plugin's name.
        call: The implementation, which takes all arguments of the hook.
    """

    __slots__ = ("_complaints", "_hook", "call", "plugin")

    def __init__(
        self,
        plugin: str,
        hook: str,
        call: Callable[..., object],
        complaints: set[tuple[str, str]],
    ) -> None:
        self.plugin = plugin
        self.call = call
        self._hook = hook
        self._complaints = complaints  # plugins and hooks that were warned about

    def complain(self, error: BaseException) -> None:
        """Warn of what it raised, once."""
        if (self.plugin, self._hook) not in self._complaints:
            self._complaints.add((self.plugin, self._hook))
            _warn(
                f"plugin {self.plugin!r} raised {type(error).__name__} in {self._hook}: {error}; "
                f"this is said once"
            )


class PluginRegistration:
    """A plugin registered in process. As a context manager it is unregistered at the end."""

    def __init__(self, manager: PluginManager, plugin: object, name: str) -> None:
        self.name = name
        self._manager = manager
        self._plugin = plugin

    def undo(self) -> None:
        """Unregister the plugin. May be repeated."""
        self._manager.unregister(self._plugin)

    def __enter__(self) -> PluginRegistration:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


class PluginManager:
    """The plugins of a process. `manager` is the one that everybody uses."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loading = threading.RLock()
        #: Returns an id that no other request of this process has.
        self.next_id: Callable[[], int] = itertools.count(1).__next__
        self._clear()

    def _clear(self) -> None:
        self._hooks: HookManager | None = None
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._complaints: set[tuple[str, str]] = set()  # of listeners, which come and go
        self._is_loading = False  # by the thread that holds the lock for it
        self._is_loaded = False
        self._done: set[Claim] = set()  # installed plugins that were loaded, or left out
        self._register_generator: Callable[..., Any] | None = None
        self._unasked: list[object] = []  # plugins that have not registered generators yet
        self._generators: dict[int, list[Any]] = {}  # id of a plugin -> its registrations
        self._failures: dict[str, BaseException] = {}

    # -- Plugins -------------------------------------------------------------------------

    def register(self, plugin: object, name: str | None = None) -> PluginRegistration:
        """Add a plugin to this process.

        Args:
            plugin: A module, or an object.
            name: For messages; by default pluggy makes one.

        Returns:
            The registration, which can be undone or used as a context manager.

        Raises:
            InvalidPluginError: If it implements no hook, an unknown one, or one in a wrong
                way, or if it is registered already.
        """
        with self._lock:
            if self._hooks is None:
                # Here and not at the top: a process without plugins does not pay for it.
                from rigging._hooks import HookManager  # noqa: PLC0415

                self._hooks = HookManager(Hooks)
            added = self._hooks.add(plugin, name)
            self._listeners = {}
            self._unasked.append(plugin)
        try:
            self._ask_for_generators()
        except BaseException:  # Ctrl-C: who gets no registration has none
            self.unregister(plugin)
            raise
        return PluginRegistration(self, plugin, added)

    def unregister(self, plugin: object) -> None:
        """Take a plugin away, with the generators that it has registered. May be repeated."""
        with self._lock:
            if self._hooks is not None and self._hooks.is_registered(plugin):
                name = self._hooks.get_name(plugin)
                self._hooks.unregister(plugin)
                self._listeners = {}
                # Who is registered anew is warned about anew.
                self._complaints.difference_update(
                    [complaint for complaint in self._complaints if complaint[0] == name]
                )
                self._unasked = [other for other in self._unasked if other is not plugin]
                for registration in self._generators.pop(id(plugin), ()):
                    registration.undo()

    def load(
        self,
        installed: Callable[[], Sequence[Claim]],
        register_generator: Callable[..., Any],
        *,
        wait: bool,
    ) -> None:
        """Load the installed plugins, unless that was done.

        Args:
            installed: Returns the entry points.
            register_generator: What `Hooks.rigging_register_generators` gets.
            wait: Whether to wait for another thread that is loading them. Who needs no
                generator of theirs does not: a plugin may run one while it is loaded.
        """
        if self._is_loaded or not self._loading.acquire(blocking=wait):
            return
        try:
            # Else a plugin makes a generator in this thread, or another was faster.
            if not self._is_loading and not self._is_loaded:
                self._is_loading = True
                try:
                    self._load_all(installed, register_generator)
                finally:  # by Ctrl-C, too: the next who comes loads the rest
                    self._is_loading = False
        finally:
            self._loading.release()

    def reset(self) -> None:
        """Forget all plugins; installed ones are loaded again when needed."""
        with self._lock:
            for registration in itertools.chain.from_iterable(self._generators.values()):
                registration.undo()
            self._clear()

    @property
    def is_loaded(self) -> bool:
        """Whether the installed plugins have been loaded; nothing is left for `load` then."""
        return self._is_loaded

    @property
    def is_empty(self) -> bool:
        """Whether no plugin was ever registered: nobody listens to anything."""
        return self._hooks is None

    @property
    def names(self) -> list[str]:
        """The names of the plugins, in the order of their registration."""
        with self._lock:
            if self._hooks is None:
                return []
            return [name for name, plugin in self._hooks.list_name_plugin() if plugin is not None]

    @property
    def failures(self) -> dict[str, BaseException]:
        """Why installed plugins were left out, by their names."""
        return dict(self._failures)

    # -- Events --------------------------------------------------------------------------

    def listeners(self, hook: str) -> tuple[Listener, ...]:
        """Return who implements a hook, in the order of calls."""
        if self._hooks is None:
            return ()
        found = self._listeners.get(hook)
        if found is None:
            with self._lock:
                implementations = self._hooks.implementations(hook)
                found = tuple(
                    Listener(plugin, hook, call, self._complaints)
                    for plugin, call in implementations
                )
                if hook in _ENDS:
                    found = found[::-1]
                self._listeners[hook] = found
        return found

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call all implementations of a hook, each for itself."""
        call_each(self.listeners(hook), *arguments)

    # -- Loading -------------------------------------------------------------------------

    def _load_all(
        self, installed: Callable[[], Sequence[Claim]], register_generator: Callable[..., Any]
    ) -> None:
        self._register_generator = register_generator
        self._ask_for_generators()
        for claim in _wanted(installed):
            if claim not in self._done:
                self._load_claim(claim)
                self._done.add(claim)
        self._is_loaded = True

    def _load_claim(self, claim: Claim) -> None:
        try:
            plugin = claim.entry_point.load()
            self.register(plugin() if isinstance(plugin, type) else plugin, claim.provider)
        # Whatever a stranger's module raises at import, SystemExit too, is that plugin's fault.
        except HARMLESS as error:
            self._failures[claim.provider] = error
            _warn(
                f"plugin {claim.provider!r} of {claim.origin} is left out: "
                f"{type(error).__name__}: {error}. Upgrade it: `pip install --upgrade "
                f"{claim.distribution}`, or do without: RIGGING_DISABLE_PLUGINS=1"
            )

    def _ask_for_generators(self) -> None:
        """Let the plugins that have not yet done so register their generators."""
        while True:
            with self._lock:
                if self._register_generator is None or self._hooks is None or not self._unasked:
                    return
                plugin = self._unasked.pop(0)
                name = self._hooks.get_name(plugin)
                own = [one for one in self.listeners(_GENERATORS) if one.plugin == name]
                made = self._generators.setdefault(id(plugin), [])
            # Without the lock: a plugin may run a generator, which asks for listeners.
            self._ask(plugin, own, made, self._register_generator)

    def _ask(
        self,
        plugin: object,
        listeners: Sequence[Listener],
        made: list[Any],
        register_generator: Callable[..., Any],
    ) -> None:
        """Let one plugin register its generators, which are kept in ``made``."""

        def register(provider: str, source: Any) -> Any:
            registration = register_generator(provider, source)
            with self._lock:
                made.append(registration)
                is_wanted = self._generators.get(id(plugin)) is made
            if not is_wanted:  # the plugin was unregistered meanwhile
                registration.undo()
            return registration

        try:
            call_each(listeners, register)
        except BaseException:  # Ctrl-C: as if it had not been asked
            with self._lock:
                if self._generators.get(id(plugin)) is made:
                    self._unasked.insert(0, plugin)
            for registration in made:
                registration.undo()
            made.clear()
            raise


def call_each(listeners: Iterable[Listener], *arguments: Any) -> None:
    """Call listeners, each for itself: one that raises is warned about, and the rest go on."""
    rest = iter(listeners)
    for listener in rest:
        try:
            listener.call(*arguments)
        except HARMLESS as error:
            listener.complain(error)
        except BaseException:  # Ctrl-C; the others are told still
            call_each(rest, *arguments)
            raise


def _wanted(installed: Callable[[], Sequence[Claim]]) -> Iterator[Claim]:
    """Yield the installed plugins that the environment lets in."""
    if os.environ.get("RIGGING_DISABLE_PLUGINS", "").strip().lower() not in _OFF:
        return
    value = os.environ.get("RIGGING_PLUGINS", "").strip()
    only = {name.strip().lower() for name in value.split(",")} - {""}
    claims = installed()
    names = {claim.provider for claim in claims}
    for name in sorted(only - names):
        near = nearest(name, sorted(names))
        hint = f"did you mean {near!r}?" if near else f"installed: {', '.join(sorted(names))}"
        _warn(f"RIGGING_PLUGINS names {name!r}, which is not installed; {hint or 'none is'}")
    # Set but to no name, such as ",": that lets in none.
    yield from (claim for claim in claims if not value or claim.provider in only)


def _warn(text: str) -> None:
    # Who listens harms no run, not even where warnings are errors.
    with contextlib.suppress(RiggingWarning):
        warnings.warn(text, RiggingWarning, stacklevel=3)


#: The plugins of this process.
manager: Final = PluginManager()
