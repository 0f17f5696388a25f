"""Providers: which class a name leads to, and which name leads back to a class.

Installed providers are entry points of the group ``rigging.generators``. The scan reads
them one distribution at a time, so that one with malformed metadata hurts nobody else,
and imports nothing; only the class that is asked for is loaded. `Registry.register` puts
a class in front of the installed ones, in process.

The lookup order, and why an installed package can never hijack a name, stands with
`Registry.find`.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from rigging._text import nearest
from rigging._version import __version__
from rigging.error import (
    AmbiguousProviderError,
    BrokenProviderError,
    IncompatibleProviderError,
    InvalidGeneratorError,
    MissingDependencyError,
    UnknownProviderError,
)
from rigging.identifier import is_provider_name, normalize_distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from importlib_metadata import EntryPoint, IDistribution

__all__ = [
    "ENTRY_POINT_GROUP",
    "PLUGIN_API",
    "Claim",
    "Problem",
    "Registration",
    "Registry",
    "Scan",
    "registry",
]

ENTRY_POINT_GROUP: Final = "rigging.generators"

#: The version of the contract between core and providers; a provider's class names the
#: one it was written for in ``plugin_api``.
PLUGIN_API: Final = 1

# Names that belong to the distribution `rigging-<name>`, whoever else claims them.
_FIRST_PARTY: Final = frozenset({"litellm", "openai", "transformers", "vllm"})

# An entry point's value; the extras behind it are obsolete, and carry no meaning here.
_TARGET: Final = re.compile(r"([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?\s*")

_logger = logging.getLogger(__name__)

Lazy: TypeAlias = "Callable[[], type]"


@dataclass(frozen=True)
class Claim:
    """An installed distribution's claim to a provider's name: one entry point.

    Attributes:
        provider: The name claimed, lower-cased.
        distribution: The distribution's name, normalised.
        version: Its version.
        target: The class, as ``module:attribute``.
        path: The directory that the distribution is installed in.
    """

    provider: str
    distribution: str
    version: str
    target: str
    path: str
    entry_point: EntryPoint = field(compare=False, repr=False)

    @property
    def origin(self) -> str:
        """Distribution, version and target, for messages."""
        return f"{self.distribution} {self.version} ({self.target})"

    @property
    def module(self) -> str:
        """The module of the target; empty where the target does not parse."""
        match = _TARGET.fullmatch(self.target)
        return match[1] if match else ""

    @property
    def attribute(self) -> str:
        """The class in that module; empty where the target does not parse."""
        match = _TARGET.fullmatch(self.target)
        return match[2] if match else ""


@dataclass(frozen=True)
class Problem:
    """A distribution that the scan left out, why, and what to do about it."""

    distribution: str
    version: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} in {self.path}: {self.reason}"


@dataclass(frozen=True)
class Scan:
    """What one look at the installed distributions found.

    Attributes:
        claims: Every claim to a provider's name.
        problems: Distributions that were left out: unreadable, or shadowed by another
            copy that stands earlier on ``sys.path``.
    """

    claims: tuple[Claim, ...]
    problems: tuple[Problem, ...]

    def claims_to(self, provider: str) -> list[Claim]:
        """Return the claims to one name."""
        return [claim for claim in self.claims if claim.provider == provider]

    @property
    def providers(self) -> set[str]:
        """The names that are claimed."""
        return {claim.provider for claim in self.claims}


class Registration:
    """A class registered in process. As a context manager it is undone at the end."""

    def __init__(self, registry: Registry, provider: str, source: type | Lazy) -> None:
        self.provider = provider
        self._registry = registry
        self._source = source
        self._lock = threading.RLock()
        self._loaded: type | None = source if isinstance(source, type) else None

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
        self._lock = threading.RLock()
        self._registrations: list[Registration] = []
        self._scan: Scan | None = None
        self._loaded: dict[Claim, type] = {}

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

    def reset(self) -> None:
        """Forget registrations, loaded classes and the scan."""
        with self._lock:
            self._registrations.clear()
            self._loaded.clear()
            self._scan = None

    # -- Finding -------------------------------------------------------------------------

    def scan(self, *, again: bool = False) -> Scan:
        """Return what is installed; read once per process, and when ``again`` is asked."""
        with self._lock:
            if self._scan is None or again:
                if again:
                    importlib.invalidate_caches()
                told = self._scan.problems if self._scan is not None else ()
                self._scan = _scan()
                for problem in self._scan.problems:
                    if problem not in told:
                        _logger.warning("provider left out: %s", problem)
            return self._scan

    def known(self) -> set[str]:
        """Return the names of all providers, registered and installed."""
        return {r.provider for r in self._registrations} | self.scan().providers

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
        first_party = [claim for claim in leading if claim.provider in _FIRST_PARTY]
        # Who claims a first-party provider's name does not get at its class's name either.
        others = [claim for claim in claims if claim.provider not in _FIRST_PARTY]
        return first_party or leading or others

    def _registration(self, provider: str) -> Registration | None:
        matches = (r for r in reversed(self._registrations) if r.provider == provider)
        return next(matches, None)

    def _claim(self, provider: str, distribution: str | None, scan: Scan) -> Claim | None:
        claims = scan.claims_to(provider)
        wanted = distribution or _pinned(provider)
        if wanted is None and provider in _FIRST_PARTY:
            wanted = f"rigging-{provider}"
        if wanted is not None:
            return next((claim for claim in claims if claim.distribution == wanted), None)
        if len(claims) > 1:
            raise AmbiguousProviderError(provider, [(c.distribution, c.version) for c in claims])
        return claims[0] if claims else None

    def _leads_to(self, claim: Claim, scan: Scan) -> bool:
        try:
            return self._claim(claim.provider, None, scan) == claim
        except AmbiguousProviderError:
            return False

    def _is_loaded_as(self, claim: Claim, cls: type) -> bool:
        if self._loaded.get(claim) is cls:
            return True
        return getattr(sys.modules.get(claim.module), claim.attribute, None) is cls

    # -- Loading -------------------------------------------------------------------------

    # No lock is held while foreign code runs: a plugin that registers something at import,
    # in a thread that holds its import lock, would wait for us and we for it.

    def _load_registration(self, registration: Registration, base: type) -> type:
        return _load(registration.provider, registration.load, base, None)

    def _load_claim(self, claim: Claim, base: type) -> type:
        cls = self._loaded.get(claim)
        if cls is None:
            cls = _load(claim.provider, claim.entry_point.load, base, claim)
            self._loaded[claim] = cls
        return cls


#: The registry of this process.
registry: Final = Registry()


def _load(provider: str, load: Callable[[], object], base: type, claim: Claim | None) -> type:
    """Run foreign code and check what it gives; without a claim, it was registered."""
    subject = f"provider {provider!r} {f'of {claim.origin}' if claim else 'registered in process'}"
    try:
        cls = load()
    # Whatever a stranger's module raises at import, SystemExit too, is that plugin's fault.
    except (Exception, SystemExit) as error:
        missing = _missing_dependency(error, claim)
        if missing is None:
            raise BrokenProviderError(
                provider, f"{subject} cannot be loaded: {_reason(error, claim)}. {_repair(claim)}"
            ) from error
        install = f", with all that it needs: `pip install {claim.distribution}`" if claim else ""
        raise MissingDependencyError(
            provider,
            f"{subject} needs the module {missing!r}, which is not installed. Install it{install}.",
            missing,
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise BrokenProviderError(
            provider,
            f"{subject} is {cls!r}, which is not a subclass of rigging.{base.__name__}. "
            f"{_repair(claim)}",
        )
    found = getattr(cls, "plugin_api", None)
    if found != PLUGIN_API:
        if isinstance(found, int) and found > PLUGIN_API:
            remedy = _upgrade("rigging-core")
        elif claim:
            remedy = _upgrade(claim.distribution)
        else:
            remedy = "Upgrade the code that registers it."
        raise IncompatibleProviderError(
            provider,
            f"{subject} is written for plugin API {found!r}, rigging-core {__version__} has "
            f"{PLUGIN_API}. {remedy}",
            found,
            PLUGIN_API,
        )
    return cls


def _missing_dependency(error: BaseException, claim: Claim | None) -> str | None:
    """Return the module that is not installed, if it is neither the plugin's own nor ours."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    own = {"rigging", claim.module.partition(".")[0] if claim else ""}
    return None if error.name.partition(".")[0] in own else error.name


def _reason(error: BaseException, claim: Claim | None) -> str:
    if claim is not None and not claim.module:
        return f"its entry point {claim.target!r} does not read 'module:Class'"
    return f"{type(error).__name__}: {error}"


def _repair(claim: Claim | None) -> str:
    if claim is None:
        return "Register a Generator class, or a callable that returns one."
    return f"{_upgrade(claim.distribution)} If that does not help, report it to its authors."


def _upgrade(distribution: str) -> str:
    return f"Upgrade {distribution}: `pip install --upgrade {distribution}`."


# -- Pins, and what to say when nothing is found ------------------------------------------


def _pin_variable(provider: str) -> str:
    return f"RIGGING_PROVIDER_{provider.upper().replace('-', '_')}"


def _pinned(provider: str) -> str | None:
    pin = os.environ.get(_pin_variable(provider), "").strip()
    return normalize_distribution(pin) if pin else None


def _unknown(
    provider: str, distribution: str | None, scan: Scan, known: set[str]
) -> UnknownProviderError:
    wanted = distribution or _pinned(provider)
    variable = _pin_variable(provider)
    others = scan.claims_to(provider)
    near = nearest(provider, _FIRST_PARTY - known)
    details = []
    install = None
    if wanted is not None:
        asker = "The identifier" if distribution else variable
        if any(claim.distribution == wanted for claim in scan.claims):
            details.append(f"{asker} asks for {wanted!r}, which does not provide it.")
        else:
            details.append(f"{asker} asks for {wanted!r}, which is not installed.")
            install = f"pip install {wanted}"
    elif provider in _FIRST_PARTY:
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


# -- The scan ----------------------------------------------------------------------------


def _scan() -> Scan:
    # Here and not at the top: it costs as much as all of `import rigging`.
    import importlib_metadata  # noqa: PLC0415

    claims: set[Claim] = set()
    problems: list[Problem] = []
    for distribution in importlib_metadata.distributions():
        try:
            found = list(_claims(distribution))
            # The first of its name on sys.path is what Python imports.
            first = importlib_metadata.distribution(found[0].distribution) if found else None
            if first is None or _location(first) == found[0].path:
                claims.update(found)
            # Two records of one version are no conflict: setuptools leaves an egg-info beside
            # what it installs for editing.
            elif first.version != found[0].version:
                problems.append(_shadowed(found[0], first))
        except Exception as error:  # noqa: BLE001 (whatever is wrong, others must not suffer)
            problems.append(_unreadable(distribution, error))
    return Scan(tuple(sorted(claims, key=_order)), tuple(problems))


def _claims(distribution: IDistribution) -> Iterator[Claim]:
    # Most distributions have no group of ours: their metadata is not even parsed.
    if ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
        return
    for entry_point in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
        yield Claim(
            provider=entry_point.name.lower(),
            distribution=normalize_distribution(distribution.metadata["Name"]),
            version=distribution.version,
            target=entry_point.value,
            path=_location(distribution),
            entry_point=entry_point,
        )


def _location(distribution: IDistribution) -> str:
    # Resolved: some systems list one directory twice, `lib` and `lib64`.
    return os.path.realpath(str(distribution.locate_file("")))


def _shadowed(claim: Claim, first: IDistribution) -> Problem:
    reason = (
        f"shadowed by version {first.version} in {_location(first)}, which stands earlier on "
        f"sys.path; uninstall one of them"
    )
    return Problem(claim.distribution, claim.version, claim.path, reason)


def _unreadable(distribution: IDistribution, error: Exception) -> Problem:
    reason = (
        f"its entry points cannot be read ({type(error).__name__}: {error}); reinstall it, or "
        f"report this to its authors"
    )
    try:
        name, version = str(distribution.metadata["Name"]), str(distribution.version)
    except Exception:  # noqa: BLE001 (the metadata may be what is broken)
        name, version = "a distribution", "of unknown version"
    return Problem(name, version, _location(distribution), reason)


def _order(claim: Claim) -> tuple[bool, str, str, str]:
    # A first-party claim first: should others name the same class, its identifier says ours.
    return not _is_first_party(claim), claim.provider, claim.distribution, claim.target


def _is_first_party(claim: Claim) -> bool:
    return claim.provider in _FIRST_PARTY and claim.distribution == f"rigging-{claim.provider}"
