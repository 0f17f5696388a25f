"""Providers: which class a name leads to, and which name leads back to a class.

Installed providers are entry points of the group ``rigging.generators``; only the class
that is asked for is loaded. `Registry.register` puts a class in front of the installed
ones, in process.

The lookup order, and why an installed package can never hijack a name, stands with
`Registry.find`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, cast

from rigging._installed import ENTRY_POINT_GROUP, FIRST_PARTY, Claim, Problem, Scan, scan_installed
from rigging._loading import PLUGIN_API, load_class
from rigging._text import nearest
from rigging.error import AmbiguousProviderError, InvalidGeneratorError, UnknownProviderError
from rigging.identifier import is_provider_name, normalize_distribution

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = [
    "ENTRY_POINT_GROUP",
    "PLUGIN_API",
    "Claim",
    "Listed",
    "Problem",
    "Registration",
    "Registry",
    "Scan",
    "State",
    "pin_variable",
    "registry",
]

_logger = logging.getLogger(__name__)

Lazy: TypeAlias = "Callable[[], type]"


#: Where the name of a `Listed` provider leads.
State: TypeAlias = Literal["found", "registered", "shadowed", "ambiguous"]


class Listed(NamedTuple):
    """A provider, as it is known without importing anything.

    Attributes:
        name: The provider's name.
        distribution: That provides it; None for one registered in process.
        version: Of the distribution; None likewise.
        target: The class, as ``module:attribute``, or what was registered.
        state: Where the name leads: ``found``, here; ``registered``, here, in process;
            ``shadowed``, to another one; ``ambiguous``, to none, for several claim it.
    """

    name: str
    distribution: str | None
    version: str | None
    target: str
    state: State


class Registration:
    """A class registered in process. As a context manager it is undone at the end."""

    def __init__(self, registry: Registry, provider: str, source: type | Lazy) -> None:
        self.provider = provider
        self._registry = registry
        self._source = source
        self._lock = threading.RLock()
        self._loaded: type | None = source if isinstance(source, type) else None

    @property
    def target(self) -> str:
        """What was registered, in words."""
        source = self._source
        name = getattr(source, "__qualname__", None) or type(source).__qualname__
        return f"{source.__module__}:{name}"

    @property
    def loaded(self) -> type | None:
        """The class; None if it is lazy and nobody has asked for it yet."""
        return self._loaded

    def load(self) -> type:
        """Return the class; a lazy one is made once."""
        with self._lock:
            if self._loaded is None:
                self._loaded = cast("Lazy", self._source)()
            return self._loaded

    def undo(self) -> None:
        """Take the registration back; what it covered is visible again. May be repeated."""
        self._registry.discard(self)

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<Registration of {self.provider!r}: {self._source!r}>"


class Registry:
    """The providers of a process. `registry` is the one that everybody uses."""

    def __init__(self) -> None:
        #: The class that every provider's derives from; `rigging.generator`, which knows
        #: it and stands above, sets it.
        self.contract: type = object
        self._lock = threading.RLock()
        self._registrations: list[Registration] = []
        self._scan: Scan | None = None
        self._loaded: dict[Claim, type] = {}
        # What `name_of` found. A new dict wherever that may change, so that nothing late gets in.
        self._names: dict[type, tuple[str, str | None]] = {}

    # -- Registering ---------------------------------------------------------------------

    def register(self, provider: str, source: type | Lazy) -> Registration:
        """Let ``provider`` lead to a class, in front of installed and earlier ones.

        Args:
            provider: The name; case does not matter.
            source: The class, or a callable without arguments that returns it and is
                called once, when the class is first needed.

        Returns:
            The registration, which can be undone or used as a context manager.

        Raises:
            InvalidGeneratorError: If the name cannot be a provider's, or ``source`` is
                neither a class nor callable.
        """
        if not isinstance(provider, str) or not is_provider_name(provider):
            raise InvalidGeneratorError(
                f"{provider!r} cannot be a provider's name: expected a letter, then letters, "
                f"digits, '-' and '_'"
            )
        if not callable(source):
            raise InvalidGeneratorError(
                f"a provider is a Generator class or a callable that returns one, "
                f"got {type(source).__name__}"
            )
        registration = Registration(self, provider.lower(), source)
        with self._lock:
            self._registrations.append(registration)
            self._names = {}
        # Asking for the log level first saves a scan that nobody would read of.
        if _logger.isEnabledFor(logging.INFO):
            for claim in self.scan().claims_to(registration.provider):
                _logger.info(
                    "provider %r of %s is replaced in process by %r",
                    registration.provider,
                    claim.origin,
                    source,
                )
        return registration

    def discard(self, registration: Registration) -> None:
        """Take one registration back, wherever it stands."""
        with self._lock:
            self._registrations = [r for r in self._registrations if r is not registration]
            self._names = {}

    def reset(self) -> None:
        """Forget registrations, loaded classes and the scan."""
        with self._lock:
            self._registrations.clear()
            self._loaded.clear()
            self._names = {}
            self._scan = None

    # -- Finding -------------------------------------------------------------------------

    def scan(self, *, again: bool = False) -> Scan:
        """Return what is installed; read once per process, and when ``again`` is asked."""
        with self._lock:
            if self._scan is None or again:
                if again:
                    importlib.invalidate_caches()
                told = self._scan.problems if self._scan is not None else ()
                self._scan = scan_installed()
                self._names = {}
                for problem in self._scan.problems:
                    if problem not in told:
                        _logger.warning("provider left out: %s", problem)
            return self._scan

    def known(self) -> set[str]:
        """Return the names of all providers, registered and installed."""
        return {r.provider for r in self._registrations} | self.scan().providers

    def listed(self) -> list[Listed]:
        """Return all providers, and for each claim to a name whether it leads there.

        Imports nothing, and reads anew what is installed.
        """
        scan = self.scan(again=True)
        registered = []
        for registration in self._registrations:
            name = registration.provider
            state: State = "registered" if registration is self._registration(name) else "shadowed"
            registered.append(Listed(name, None, None, registration.target, state))
        taken = {one.name for one in registered}
        installed = [
            Listed(
                claim.provider,
                claim.distribution,
                claim.version,
                claim.target,
                "shadowed" if claim.provider in taken else self._state(claim, scan),
            )
            for claim in scan.claims
        ]
        return sorted(registered + installed, key=lambda one: (one.name, one.distribution or ""))

    def find(self, provider: str, distribution: str | None = None, *, base: type) -> type:
        """Return the class that a provider's name leads to.

        In this order: the distribution that is named; the latest registration in
        process; the distribution that ``RIGGING_PROVIDER_<NAME>`` pins; the first-party
        distribution, for its names; the only claimant.

        Args:
            provider: The name, lower-cased.
            distribution: The distribution that is to provide it, normalised.
            base: What the class must derive from.

        Raises:
            UnknownProviderError: If nothing provides the name.
            AmbiguousProviderError: If several distributions do.
            MissingDependencyError: If a module that the provider imports is missing.
            BrokenProviderError: If its entry point leads to no subclass of ``base``.
            IncompatibleProviderError: If its ``plugin_api`` is not ours.
        """
        if distribution is None:
            registration = self._registration(provider)
            if registration is not None:
                return self._load_registration(registration, base)
        claim = self._claim(provider, distribution, self.scan())
        if claim is None:
            # Something may have been installed since: a notebook's `%pip install`.
            scan = self.scan(again=True)
            claim = self._claim(provider, distribution, scan)
            if claim is None:
                raise _unknown(provider, distribution, scan, self.known())
        return self._load_claim(claim, base)

    def name_of(self, cls: type) -> tuple[str, str | None] | None:
        """Return provider and distribution that lead to a class; imports nothing.

        The distribution is None where the provider's name alone leads to the class.
        """
        names = self._names
        name = names.get(cls)  # each run asks
        if name is None:
            name = self._find_name(cls)
            if name is not None:
                names[cls] = name
        return name

    def _find_name(self, cls: type) -> tuple[str, str | None] | None:
        for registration in reversed(self._registrations):
            if registration.loaded is cls and registration is self._registration(
                registration.provider
            ):
                return registration.provider, None
        scan = self.scan()
        claims = [claim for claim in scan.claims if self._is_loaded_as(claim, cls)]
        for claim in claims:
            if self._registration(claim.provider) is None and self._leads_to(claim, scan):
                return claim.provider, None
        return (claims[0].provider, claims[0].distribution) if claims else None

    def find_attribute(self, name: str, *, base: type) -> type | None:
        """Load the installed class of this name, whichever provider it belongs to.

        Raises:
            AttributeError: If several distributions have a class of this name.
        """
        claims = self._claims_with(name, self.scan())
        claims = claims or self._claims_with(name, self.scan(again=True))
        if len({(claim.distribution, claim.target) for claim in claims}) > 1:
            several = ", ".join(claim.origin for claim in claims)
            raise AttributeError(
                f"several installed providers have a class {name!r}: {several}. Import it from "
                f"its own module."
            )
        return self._load_claim(claims[0], base) if claims else None

    def _claims_with(self, attribute: str, scan: Scan) -> list[Claim]:
        """Return the claims whose class has this name; only the best where some are better."""
        claims = [claim for claim in scan.claims if claim.attribute == attribute]
        leading = [claim for claim in claims if self._leads_to(claim, scan)]
        first_party = [claim for claim in leading if claim.provider in FIRST_PARTY]
        # Who claims a first-party provider's name does not get at its class's name either.
        others = [claim for claim in claims if claim.provider not in FIRST_PARTY]
        return first_party or leading or others

    def _registration(self, provider: str) -> Registration | None:
        matches = (r for r in reversed(self._registrations) if r.provider == provider)
        return next(matches, None)

    def _claim(self, provider: str, distribution: str | None, scan: Scan) -> Claim | None:
        claims = scan.claims_to(provider)
        wanted = distribution or _pinned(provider)
        if wanted is None and provider in FIRST_PARTY:
            wanted = f"rigging-{provider}"
        if wanted is not None:
            return next((claim for claim in claims if claim.distribution == wanted), None)
        if len(claims) > 1:
            raise AmbiguousProviderError(provider, [(c.distribution, c.version) for c in claims])
        return claims[0] if claims else None

    def _state(self, claim: Claim, scan: Scan) -> State:
        """Tell where a name leads among what is installed."""
        try:
            leads_to = self._claim(claim.provider, None, scan)
        except AmbiguousProviderError:
            return "ambiguous"
        return "found" if leads_to == claim else "shadowed"

    def _leads_to(self, claim: Claim, scan: Scan) -> bool:
        return self._state(claim, scan) == "found"

    def _is_loaded_as(self, claim: Claim, cls: type) -> bool:
        if self._loaded.get(claim) is cls:
            return True
        module = sys.modules.get(claim.module)
        # Not `getattr`: a lazy module may import what is heavy, or fail, when asked for a name.
        names = vars(module) if module is not None else {}
        if claim.attribute in names:
            return names[claim.attribute] is cls
        return cls.__qualname__ == claim.attribute and f"{cls.__module__}.".startswith(
            f"{claim.module}."
        )

    # -- Loading -------------------------------------------------------------------------

    # No lock is held while foreign code runs: a plugin that registers something at import,
    # in a thread that holds its import lock, would wait for us and we for it.

    def _load_registration(self, registration: Registration, base: type) -> type:
        was_loaded = registration.loaded is not None
        try:
            return load_class(registration.provider, registration.load, base, None)
        finally:  # a class that is refused is loaded, too
            if not was_loaded:
                self._names = {}

    def _load_claim(self, claim: Claim, base: type) -> type:
        cls = self._loaded.get(claim)
        if cls is None:
            cls = load_class(claim.provider, claim.entry_point.load, base, claim)
            self._loaded[claim] = cls
            self._names = {}
        return cls


#: The registry of this process.
registry: Final = Registry()


# -- Pins, and what to say when nothing is found ------------------------------------------


def pin_variable(provider: str) -> str:
    """Return the environment variable that says which distribution a name belongs to."""
    return f"RIGGING_PROVIDER_{provider.upper().replace('-', '_')}"


def _pinned(provider: str) -> str | None:
    pin = os.environ.get(pin_variable(provider), "").strip()
    return normalize_distribution(pin) if pin else None


def _unknown(
    provider: str, distribution: str | None, scan: Scan, known: set[str]
) -> UnknownProviderError:
    wanted = distribution or _pinned(provider)
    variable = pin_variable(provider)
    others = scan.claims_to(provider)
    near = nearest(provider, FIRST_PARTY - known)
    details = []
    install = None
    if wanted is not None:
        asker = "The identifier" if distribution else variable
        if any(claim.distribution == wanted for claim in scan.claims):
            details.append(f"{asker} asks for {wanted!r}, which does not provide it.")
        else:
            details.append(f"{asker} asks for {wanted!r}, which is not installed.")
            install = f"pip install {wanted}"
    elif provider in FIRST_PARTY:
        install = f"pip install rigging-{provider}"
    elif near:
        details.append(f"{near!r} would come with `pip install rigging-{near}`.")
    if others:
        name = others[0].distribution
        details.append(
            f"Claimed by {', '.join(claim.origin for claim in others)}: to use that one, write "
            f"'{name}:{provider}!…' or set {variable}={name}."
        )
    if scan.problems:
        details.append(f"Left out: {'; '.join(map(str, scan.problems))}.")
    return UnknownProviderError(
        provider, known - {provider}, install=install, detail=" ".join(details)
    )
