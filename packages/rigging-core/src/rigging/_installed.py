"""What is installed: claims to providers' names, and plugins, read from entry points.

One distribution at a time, so that one with malformed metadata hurts nobody else, and
without importing any of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rigging.identifier import normalize_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from importlib_metadata import EntryPoint, IDistribution

__all__ = [
    "ENTRY_POINT_GROUP",
    "FIRST_PARTY",
    "PLUGIN_GROUP",
    "Claim",
    "Problem",
    "Scan",
    "scan_installed",
]

#: Where distributions name the generators that they provide.
ENTRY_POINT_GROUP: Final = "rigging.generators"
PLUGIN_GROUP: Final = "rigging.plugins"

#: Names that belong to the distribution `rigging-<name>`, whoever else claims them.
FIRST_PARTY: Final = frozenset({"litellm", "openai", "transformers", "vllm"})

# An entry point's value; the extras behind it are obsolete, and carry no meaning here.
_TARGET: Final = re.compile(r"([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?\s*")


@dataclass(frozen=True)
class Claim:
    """An installed distribution's claim to a provider's name, or to a plugin's: one entry point.

    Attributes:
        provider: The name claimed, lower-cased.
        distribution: The distribution's name, normalised.
        version: Its version.
        target: The class, as ``module:attribute``; of a plugin any object, or a module.
        path: The directory that the distribution is installed in.
        group: What it claims: `ENTRY_POINT_GROUP` or `PLUGIN_GROUP`.
    """

    provider: str
    distribution: str
    version: str
    target: str
    path: str
    entry_point: EntryPoint = field(compare=False, repr=False)
    group: str = ENTRY_POINT_GROUP

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
        plugins: Every plugin.
        problems: Distributions that were left out: unreadable, or shadowed by another
            copy that stands earlier on ``sys.path``.
    """

    claims: tuple[Claim, ...]
    plugins: tuple[Claim, ...]
    problems: tuple[Problem, ...]

    def claims_to(self, provider: str) -> list[Claim]:
        """Return the claims to one name."""
        return [claim for claim in self.claims if claim.provider == provider]

    @property
    def providers(self) -> set[str]:
        """The names that are claimed."""
        return {claim.provider for claim in self.claims}


def scan_installed() -> Scan:
    """Look at what is installed now."""
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
            # what it installs for editing, and some systems list `lib` a second time as `lib64`.
            elif first.version != found[0].version:
                problems.append(_shadowed(found[0], first))
        except Exception as error:  # noqa: BLE001 (whatever is wrong, others must not suffer)
            problems.append(_unreadable(distribution, error))
    ordered = sorted(claims, key=_order)
    return Scan(
        tuple(claim for claim in ordered if claim.group == ENTRY_POINT_GROUP),
        tuple(claim for claim in ordered if claim.group == PLUGIN_GROUP),
        tuple(problems),
    )


def _claims(distribution: IDistribution) -> Iterator[Claim]:
    # Most distributions have no group of ours: their metadata is not even parsed.
    text = distribution.read_text("entry_points.txt") or ""
    for group in (ENTRY_POINT_GROUP, PLUGIN_GROUP):
        if group in text:
            for entry_point in distribution.entry_points.select(group=group):
                yield Claim(
                    provider=entry_point.name.lower(),
                    distribution=normalize_distribution(distribution.metadata["Name"]),
                    version=distribution.version,
                    target=entry_point.value,
                    path=_location(distribution),
                    entry_point=entry_point,
                    group=group,
                )


def _location(distribution: IDistribution) -> str:
    return str(distribution.locate_file(""))


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
    return claim.provider in FIRST_PARTY and claim.distribution == f"rigging-{claim.provider}"
