"""The way from an identifier to a generator: provider, class, fields, parameters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging._fields import options_of
from rigging._text import nearest
from rigging.error import InvalidGeneratorError, InvalidIdentifierError, InvalidParamsError
from rigging.identifier import Identifier, decode_any, is_provider_name
from rigging.params import GenerateParams
from rigging.registry import registry

if TYPE_CHECKING:
    from rigging._model import Model

__all__ = ["DEFAULT_PROVIDER", "build"]

#: The provider of an identifier that names none; ``RIGGING_DEFAULT_PROVIDER`` overrides it.
DEFAULT_PROVIDER: Final = "litellm"


def build(identifier: str, params: GenerateParams | None = None) -> Any:
    """Make the generator that an identifier names; see `rigging.get_generator`.

    Here and not there, because pipelines need it, which generators import.
    """
    parsed = Identifier.parse(identifier)
    provider = parsed.provider or _default_provider()
    cls: type[Model] = registry.find(provider, parsed.distribution, base=registry.contract)
    options = _read_options(parsed, cls, provider)
    try:
        own_params = GenerateParams(**options.params).merge_with(params)
        return cls(model=parsed.model, params=own_params, **options.fields)
    except (InvalidGeneratorError, InvalidParamsError) as error:
        raise _misfit(parsed, options, error) from None


def _default_provider() -> str:
    name = os.environ.get("RIGGING_DEFAULT_PROVIDER", "").strip() or DEFAULT_PROVIDER
    if not is_provider_name(name):
        raise InvalidGeneratorError(
            f"RIGGING_DEFAULT_PROVIDER is {name!r}, which cannot be a provider's name"
        )
    return name.lower()


class _Options(NamedTuple):
    """An identifier's options, decoded."""

    fields: dict[str, Any]  # of the class
    params: dict[str, Any]  # of `GenerateParams`
    keys: dict[str, str]  # field, or "params.<field>" -> the key that gave it


def _read_options(parsed: Identifier, cls: type[Model], provider: str) -> _Options:
    own = options_of(cls)
    shared = options_of(GenerateParams)
    extra: dict[str, Any] = {}
    options = _Options({}, {"extra": extra}, {})
    for key, raw in parsed.options.items():
        if key == "model":
            raise parsed.key_error("the model is named before the first comma", key)
        if key in {"params", "extra"}:
            raise parsed.key_error(
                f"{key} are given key by key", key, "Write temperature=0.5, or extra.NAME=value."
            )
        name = key.removeprefix("params.")
        try:
            if key.startswith("extra."):
                extra[key.removeprefix("extra.")] = decode_any(raw)
                options.keys.setdefault("params.extra", key)
                continue
            if key in own:
                option, target, place = own[key], options.fields, own[key].field
            elif name in shared:
                option, target, place = shared[name], options.params, f"params.{name}"
            else:
                raise _unknown_key(parsed, key, provider, cls)
            if place in options.keys:
                raise parsed.key_error(
                    f"the keys {options.keys[place]!r} and {key!r} give the same field", key
                )
            target[option.field] = option.read(raw)
            options.keys[place] = key
        except InvalidIdentifierError:
            raise
        except ValueError as error:  # of the codec
            raise parsed.error(f"{key}: {error}", key) from None
    return options


def _unknown_key(
    parsed: Identifier, key: str, provider: str, cls: type[Model]
) -> InvalidIdentifierError:
    valid = [
        name
        for name in (*options_of(cls), *options_of(GenerateParams))
        if name not in {"model", "params", "extra"}
    ]
    near = nearest(key, valid)
    hint = f"; did you mean {near!r}?" if near else ""
    keys = ", ".join(dict.fromkeys([*valid, "extra.NAME"]))
    return parsed.key_error(f"unknown key {key!r}{hint}", key, f"Keys of {provider}: {keys}.")


def _misfit(
    parsed: Identifier, options: _Options, error: InvalidGeneratorError | InvalidParamsError
) -> InvalidIdentifierError:
    """Point at the first value that pydantic refused."""
    field, reason = error.faults[0] if error.faults else ("", str(error))
    place = f"params.{field}" if isinstance(error, InvalidParamsError) else field
    return parsed.error(reason, options.keys.get(place))
