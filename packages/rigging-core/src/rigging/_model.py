"""The pydantic base of Rigging's models, and its errors in our own words.

Pydantic's `ValidationError` names neither the nearest field nor what to do, and repeats
the input, which may be a key. `Model` raises the error of our tree that its subclass
names instead, wherever a user constructs one directly.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError

from rigging._text import masked, nearest
from rigging.error import InvalidValueError
from rigging.redaction import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

__all__ = ["Model", "Snapshot", "field_names", "filled"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_logger = logging.getLogger(__name__)

# Pydantic's error types -> what was expected, in the words of a user.
_EXPECTED: Final[Mapping[str, str]] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}
_SHOWN: Final = 40  # characters of a refused value in a message


def field_names(name: str, field: FieldInfo) -> list[str]:
    """Return the names under which a field may be given, its own first."""
    alias = field.validation_alias
    others = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return list(dict.fromkeys([name, *(other for other in others if isinstance(other, str))]))


# What cannot change in place, and is nearly all that fields hold.
_FIXED: Final = frozenset({NoneType, bool, float, int, str})


class Snapshot:
    """What the fields of a model held, to tell whether they still do: asked for each run.

    Args:
        fields: Values by name, in a dict that stays as it is.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._others = [name for name, value in fields.items() if type(value) not in _FIXED]
        self._changeable = [
            (part, _copied(part)) for name in self._others for part in _changeable(fields[name])
        ]

    def matches(self, fields: dict[str, Any]) -> bool:
        """Tell whether fields hold the same, and nothing was changed in place."""
        for name in self._others:
            if fields.get(name) is not self._fields[name]:
                return False
        # Equal as it is, nearly always; a model within it equals its copy only as a dict.
        return fields == self._fields and all(
            part == kept or _copied(part) == kept for part, kept in self._changeable
        )


def _changeable(value: Any) -> Iterator[Any]:
    """Yield the parts of a value that can change in place, and hold all others of that kind."""
    if isinstance(value, BaseModel) and value.model_config.get("frozen"):
        for part in value.__dict__.values():
            yield from _changeable(part)
    elif isinstance(value, (dict, list, tuple, BaseModel)):
        yield value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: part if type(part) in _FIXED else _copied(part) for name, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_copied(part) for part in value]
    return _copied(value.__dict__) if isinstance(value, BaseModel) else value


# What every model consists of. There are several models per request, and `object.__setattr__`
# would look each of these up.
_set_values: Final = BaseModel.__dict__["__dict__"].__set__
_set_given: Final = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra: Final = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private: Final = BaseModel.__dict__["__pydantic_private__"].__set__


def filled(
    cls: type[ModelT],
    values: dict[str, Any],
    given: set[str],
    extra: dict[str, Any] | None = None,
) -> ModelT:
    """Make a model as pydantic's constructor leaves it, of values that are known to fit.

    Args:
        cls: Of the model; it has no private attributes.
        values: Of all fields.
        given: Which of them were given, and not left to their defaults; those of ``extra``, too.
        extra: What else there is, of a class that allows it; None for others.
    """
    made = object.__new__(cls)
    _set_values(made, values)
    _set_given(made, given)
    _set_extra(made, extra)
    _set_private(made, None)
    return made


def _wake_pydantic() -> None:
    """Make one model, so that pydantic has looked for plugins of its own.

    It does so once, for the first model of a process, and fails there if any installed
    distribution has malformed entry points. No provider, and no user, shall suffer from that.
    """
    try:

        class Probe(BaseModel):
            pass
    except Exception as error:  # noqa: BLE001 (whatever it met, it does not look again)
        _logger.warning(
            "pydantic goes without its plugins, it could not read the entry points of what is "
            "installed (%s: %s); reinstall the distribution whose entry_points.txt is malformed",
            type(error).__name__,
            error,
        )


_wake_pydantic()


class Model(BaseModel):
    """A pydantic model whose constructor raises the error that ``error_class`` names."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        protected_namespaces=(),
        # As null, which pydantic writes by default, an infinity would not come back.
        ser_json_inf_nan="constants",
        validate_by_alias=True,
        validate_by_name=True,
    )

    error_class: ClassVar[type[InvalidValueError]] = InvalidValueError

    def __init__(self, **data: Any) -> None:
        self._fill(data)

    def _fill(self, data: dict[str, Any]) -> None:
        """Do what pydantic's constructor does; there are several of these per request."""
        try:
            self.__pydantic_validator__.validate_python(data, self_instance=self)
        except ValidationError as error:
            # From None: the original repeats what we have just said, with the input in it.
            raise self.refusal(error) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # Some of these are read per request, and pydantic finds a private attribute only after
        # Python has looked for it in vain, which takes several times as long.
        for name in cls.__private_attributes__:
            if not isinstance(getattr(cls, name, None), property):
                setattr(cls, name, _private(name))

    @classmethod
    def refusal(cls, error: ValidationError) -> InvalidValueError:
        """Return the error that tells a user of this class what pydantic found."""
        found = _faults(cls, error)
        return cls.error_class(f"{cls.__name__}: {'; '.join(text for _, text in found)}", found)


def _private(name: str) -> property:
    def get(model: BaseModel) -> Any:
        try:
            return model.__pydantic_private__[name]  # type: ignore[index]
        except (KeyError, TypeError):  # it has no value yet, or none of them has
            raise AttributeError from None  # so that pydantic is asked, and says which

    return property(get)


def _faults(cls: type[BaseModel], error: ValidationError) -> list[tuple[str, str]]:
    """Put pydantic's complaints into our words: one (field, text) per field."""
    by_field: defaultdict[str, list[ErrorDetails]] = defaultdict(list)
    for detail in error.errors(include_url=False):
        by_field[str(detail["loc"][0]) if detail["loc"] else ""].append(detail)
    return [(field, _explain(cls, field, group)) for field, group in by_field.items()]


def _explain(cls: type[BaseModel], field: str, details: list[ErrorDetails]) -> str:
    kinds = {detail["type"] for detail in details}
    names = list(_all_names(cls))
    if "extra_forbidden" in kinds and len(details[0]["loc"]) == 1:
        near = nearest(field, names)
        hint = f"did you mean {near!r}? " if near else ""
        return f"unknown field {field!r}; {hint}(fields: {', '.join(names)})"
    if "missing" in kinds and len(details[0]["loc"]) == 1:
        return f"{field} is required"
    # A union complains once per branch: the branch that got furthest is the one meant.
    depth = max(len(detail["loc"]) for detail in details)
    meant = [detail for detail in details if len(detail["loc"]) == depth]
    return (
        _place(field, meant[0])
        + " or ".join(dict.fromkeys(map(_expected, meant)))
        + _given(field, meant[0])
    )


def _all_names(cls: type[BaseModel]) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield from field_names(name, field)


def _place(field: str, detail: ErrorDetails) -> str:
    indices = [f"[{part}]" for part in detail["loc"][1:] if isinstance(part, int)]
    return f"{field}{''.join(indices)}: " if field else ""


def _expected(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "value_error":  # raised by a validator of ours: already in our words
        return str(detail["ctx"]["error"])
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}"
    return detail["msg"].replace("Input should be", "expected", 1)


def _given(field: str, detail: ErrorDetails) -> str:
    if detail["type"] == "value_error":
        return ""
    value = detail["input"]
    if any(is_secret(name) for name in _strings([field, *detail["loc"]])):
        return ""
    if value is None or isinstance(value, (bool, int, float, str)):
        shown = masked(repr(value))
        return f", got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}"
    return f", got {type(value).__name__}"


def _strings(parts: Iterable[object]) -> Iterator[str]:
    return (part for part in parts if isinstance(part, str))
