"""The way from an identifier to a generator: provider, class, fields, parameters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging._fields import Option, options_of, takes_more
from rigging._text import nearest
from rigging.error import InvalidGeneratorError, InvalidIdentifierError, InvalidParamsError
from rigging.identifier import Identifier, is_provider_name
from rigging.params import GenerateParams
from rigging.plugins import manager
from rigging.registry import registry

if TYPE_CHECKING:
    from rigging._model import Model

__all__ = ["DEFAULT_PROVIDER", "build", "load_plugins"]

#: The provider of an identifier that names none; ``RIGGING_DEFAULT_PROVIDER`` overrides it.
DEFAULT_PROVIDER: Final = "litellm"


def build(identifier: str, params: GenerateParams | None = None) -> Any:
    """Make the generator that an identifier names; see `rigging.get_generator`.

    Here and not there, because pipelines need it, which generators import.
    """
    load_plugins(wait=True)  # one may register the provider
    parsed = Identifier.parse(identifier)
    provider = parsed.provider or _default_provider()
    cls: type[Model] = registry.find(provider, parsed.distribution, base=registry.contract)
    options = _read_options(parsed, cls, provider)
    try:
        own_params = GenerateParams(**options.params).merge_with(params)
        return cls(model=parsed.model, params=own_params, **options.fields)
    except (InvalidGeneratorError, InvalidParamsError) as error:
        raise _misfit(parsed, options, error) from None


def load_plugins(*, wait: bool = False) -> None:
    """Load the installed plugins, unless that was done; see `PluginManager.load`."""
    if not manager.is_loaded:  # each run asks
        manager.load(lambda: registry.scan().plugins, registry.register, wait=wait)


def _default_provider() -> str:
    name = os.environ.get("RIGGING_DEFAULT_PROVIDER", "").strip() or DEFAULT_PROVIDER
    if not is_provider_name(name):
        raise InvalidGeneratorError(
            f"RIGGING_DEFAULT_PROVIDER is {name!r}, which cannot be a provider's name"
        )
    return name.lower()


class _Place(NamedTuple):
    """What a key is meant for: a field, or a part of a field that is a mapping."""

    option: Option
    is_param: bool
    part: str | None = None

    @property
    def field(self) -> str:
        return f"params.{self.option.field}" if self.is_param else self.option.field

    def overlaps(self, other: _Place) -> bool:
        if self.field != other.field:
            return False
        return self.part is None or other.part is None or self.part == other.part


class _Options(NamedTuple):
    """An identifier's options, decoded."""

    fields: dict[str, Any]  # of the class
    params: dict[str, Any]  # of `GenerateParams`
    places: dict[str, _Place]  # key -> what it gave


def _read_options(parsed: Identifier, cls: type[Model], provider: str) -> _Options:
    options = _Options({}, {}, {})
    for key, raw in parsed.options.items():
        if key == "model":
            raise parsed.key_error("the model is named before the first comma", key)
        if key in {"params", "extra"}:
            raise parsed.key_error(
                f"{key} are given key by key", key, "Write temperature=0.5, or extra.NAME=value."
            )
        place = _find_place(key, cls)
        if place is None:
            raise _unknown_key(parsed, key, provider, cls)
        for other, given in options.places.items():
            if place.overlaps(given):
                raise parsed.key_error(f"the keys {other!r} and {key!r} give the same field", key)
        target = options.params if place.is_param else options.fields
        name = place.option.field
        try:
            if place.part is None:
                target[name] = place.option.read(raw)
            else:
                target.setdefault(name, {})[place.part] = place.option.read_part(raw)
        except ValueError as error:  # of the codec
            raise parsed.error(f"{key}: {error}", key) from None
        options.places[key] = place
    return options


def _find_place(key: str, cls: type[Model]) -> _Place | None:
    own = options_of(cls)
    shared = options_of(GenerateParams)
    if key in own:
        return _Place(own[key], is_param=False)
    name = key.removeprefix("params.")
    if name in shared:
        return _Place(shared[name], is_param=True)
    if takes_more(cls) and key.isidentifier():
        # The class knows which other names there are, and refuses the rest.
        return _Place(Option(key), is_param=False)
    name, _, part = key.partition(".")
    # `extra` is that of the parameters, whatever the class has.
    is_param = name == "extra"
    option = (shared if is_param else own).get(name)
    if not part or option is None or option.kind != "mapping":
        return None
    return _Place(option, is_param, part)


def _unknown_key(
    parsed: Identifier, key: str, provider: str, cls: type[Model]
) -> InvalidIdentifierError:
    own = options_of(cls)
    shared = options_of(GenerateParams).items()
    known = {**own, **{name: option for name, option in shared if name not in own}}
    valid = [name for name in known if name not in {"model", "params", "extra"}]
    by_part = [*(name for name in valid if known[name].kind == "mapping"), "extra"]
    name, _, part = key.partition(".")
    reason = f"unknown key {key!r}"
    if part and name != "params":
        near = nearest(name, by_part)
        hint = f"did you mean {f'{near}.{part}'!r}?" if near else ""
        given = ", ".join(f"{name}.NAME" for name in by_part)
        reason += f"; {hint or f'only these are given part by part: {given}'}"
    else:
        near = nearest(key, valid)
        reason += f"; did you mean {near!r}?" if near else ""
    shown = (f"{name}.NAME" if name in by_part else name for name in [*valid, "extra"])
    return parsed.key_error(reason, key, f"Keys of {provider}: {', '.join(shown)}.")


def _misfit(
    parsed: Identifier, options: _Options, error: InvalidGeneratorError | InvalidParamsError
) -> InvalidIdentifierError:
    """Point at the first value that pydantic refused."""
    field, reason = error.faults[0] if error.faults else ("", str(error))
    wanted = f"params.{field}" if isinstance(error, InvalidParamsError) else field
    key = next((key for key, place in options.places.items() if place.field == wanted), None)
    return parsed.error(reason, key)
