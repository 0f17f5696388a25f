"""Running a provider's code: what is loaded is checked, what fails is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rigging._version import __version__
from rigging.error import BrokenProviderError, IncompatibleProviderError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging._installed import Claim

__all__ = ["PLUGIN_API", "load_class"]

#: The version of the contract between core and providers; a provider's class names the
#: one it was written for in ``plugin_api``.
PLUGIN_API: Final = 1


def load_class(provider: str, load: Callable[[], object], base: type, claim: Claim | None) -> type:
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
