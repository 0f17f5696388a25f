"""`rigging doctor`: what is installed, what is broken, and what to do about it."""

from __future__ import annotations

import os
import re
import traceback
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from importlib_metadata import PackageNotFoundError, distribution
from packaging.requirements import InvalidRequirement, Requirement

from rigging._version import __version__
from rigging.cli._exits import ExitCode
from rigging.cli._options import AsJson, Modules
from rigging.cli._providers import find, table
from rigging.cli._records import as_line
from rigging.error import IncompatibleProviderError, MissingDependencyError, ProviderLookupError
from rigging.plugins import manager
from rigging.registry import Listed, pin_variable, registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["doctor"]

# What is no reason to fail: it may well be wanted.
_FINE: Final = frozenset({"ok", "shadowed", "ambiguous", "left out"})


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        kind: ``provider``, ``plugin`` or ``distribution``.
        name: Which.
        origin: The distribution and its version; None for what was registered in process.
        state: ``ok``, ``shadowed``, ``ambiguous``, ``broken``, ``wrong API``,
            ``missing dependency``, ``unreadable`` or ``left out``.
        detail: What is wrong, and what to do.
        trace: The traceback of what is broken.
    """

    kind: str
    name: str
    origin: str | None
    state: str
    detail: str = ""
    trace: str = ""


def doctor(
    *,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the traceback of what is broken.")
    ] = False,
    as_json: AsJson = False,
    modules: Modules = None,  # noqa: ARG001 (they have been run)
) -> None:
    """Look at what is installed; exit with 1 if something is broken."""
    listed = registry.listed()
    findings = [*_providers(listed), *_plugins(), *_distributions()]
    keys = _keys(listed)
    if as_json:
        found = [one._asdict() for one in findings]
        print(as_line({"version": __version__, "found": found, "keys": keys}))
    else:
        _show(findings, keys, verbose=verbose)
    if any(one.state not in _FINE for one in findings):
        raise typer.Exit(ExitCode.FAILED)


def _show(findings: list[Finding], keys: dict[str, bool], *, verbose: bool) -> None:
    print(f"rigging-core {__version__}\n")
    rows = [(one.kind, one.name, one.origin, one.state) for one in findings]
    print(table(("", "name", "from", "state"), rows) if rows else "nothing is installed")
    for one in findings:
        if one.detail:
            print(f"\n{one.kind} {one.name}, {one.state}: {one.detail}")
        if verbose and one.trace:
            print(one.trace)
    if keys:
        print()
        print(table(("key variable", ""), [(k, "set" if v else "-") for k, v in keys.items()]))


def _providers(listed: Iterable[Listed]) -> Iterator[Finding]:
    for one in listed:
        origin = None if one.distribution is None else f"{one.distribution} {one.version}"
        found = Finding("provider", one.name, origin, "ok")
        if one.state in {"shadowed", "ambiguous"}:
            yield found._replace(state=one.state, detail=_why(one))
            continue
        try:
            find(one.name, one.distribution)
        except ProviderLookupError as error:
            yield found._replace(state=_state(error), detail=str(error), trace=_trace(error))
            continue
        try:
            missing = [] if one.distribution is None else list(_missing(one.distribution))
        except InvalidRequirement as error:
            detail = f"what {one.distribution} says that it needs cannot be read: {error}"
            yield found._replace(state="broken", detail=detail)
            continue
        if missing:
            install = f"`pip install {one.distribution}` brings what is missing"
            detail = f"{one.distribution} needs {', '.join(missing)}: {install}"
            found = found._replace(state="missing dependency", detail=detail)
        yield found


def _why(one: Listed) -> str:
    if one.state == "ambiguous":
        return (
            f"several distributions claim the name: write '{one.distribution}:{one.name}!…', or "
            f"set {pin_variable(one.name)}={one.distribution}"
        )
    if one.distribution is None:
        return "a later registration has the name"
    return f"the name leads elsewhere; '{one.distribution}:{one.name}!…' leads here"


def _state(error: ProviderLookupError) -> str:
    if isinstance(error, MissingDependencyError):
        return "missing dependency"
    return "wrong API" if isinstance(error, IncompatibleProviderError) else "broken"


def _missing(name: str) -> Iterator[str]:
    """Yield what a distribution needs and does not find; extras are not looked at."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = distribution(requirement.name).version
        except PackageNotFoundError:
            # Some builds of a library go by another name, such as vLLM's for CPUs.
            if find_spec(re.split(r"\W", requirement.name.replace("-", "_"))[0]) is None:
                yield f"{requirement}, which is not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement}, and {version} is installed"


def _plugins() -> Iterator[Finding]:
    failures = manager.failures
    names = set(manager.names)
    for claim in registry.scan().plugins:
        found = Finding("plugin", claim.provider, f"{claim.distribution} {claim.version}", "ok")
        error = failures.get(claim.provider)
        if error is not None:
            detail = f"{type(error).__name__}: {error}"
            found = found._replace(state="broken", detail=detail, trace=_trace(error))
        elif claim.provider not in names:
            detail = "RIGGING_PLUGINS or RIGGING_DISABLE_PLUGINS leaves it out"
            found = found._replace(state="left out", detail=detail)
        yield found


def _distributions() -> Iterator[Finding]:
    for problem in registry.scan().problems:
        state = "shadowed" if problem.reason.startswith("shadowed") else "unreadable"
        yield Finding("distribution", problem.distribution, problem.version, state, str(problem))


def _keys(listed: Iterable[Listed]) -> dict[str, bool]:
    """Return the variables that may hold a key, and whether they do; never what they hold."""
    variables: set[str] = set()
    for one in listed:
        if one.state in {"found", "registered"}:
            try:
                cls: Any = find(one.name, one.distribution)
            except ProviderLookupError:
                continue  # said elsewhere
            variables.update(cls.key_variables or ())
    return {name: bool(os.environ.get(name)) for name in sorted(variables)}


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
