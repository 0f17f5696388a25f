"""Parameters of one generation: what to sample, when to stop, how long to wait."""

from __future__ import annotations

from operator import itemgetter
from typing import Annotated, Any, ClassVar, Final

from pydantic import BeforeValidator, ConfigDict, Field, field_serializer, field_validator

from rigging._model import Model, filled
from rigging.error import InvalidParamsError
from rigging.redaction import without_secrets

__all__ = ["GenerateParams", "Merged", "no_params"]


# Fields whose values can be changed in place.
_CONTAINERS: Final = ("stop", "tools", "tool_choice", "modalities", "audio", "extra")
_containers_of: Final = itemgetter(*_CONTAINERS)


def _unshared(values: dict[str, Any]) -> dict[str, Any]:
    """Give values containers of their own, in place.

    Not all the way down: tools may be large, and this happens once per request.
    """
    for name in _CONTAINERS:
        value = values[name]
        if value is not None and type(value) is not str:
            values[name] = value.copy()
    return values


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class GenerateParams(Model):
    """Parameters of one generation. Immutable; None means "what the backend does".

    Attributes:
        temperature: Sampling temperature, 0 or more; 0 is greedy.
        max_tokens: The most tokens to generate.
        top_k: Sample from the k most likely tokens (0 or -1: from all).
        top_p: Sample from the likeliest tokens that hold this share of probability, 0 to 1.
        stop: Texts that end the generation; they are not part of the result. One str is
            taken as a list of one.
        presence_penalty: Added against tokens that have occurred.
        frequency_penalty: Added against tokens by how often they have occurred.
        api_base: Address of the endpoint, for remote providers.
        timeout: Seconds that the whole request may take.
        seed: Makes sampling repeatable where the backend can.
        tools: Tools that the model may call, in OpenAI's format.
        tool_choice: ``auto``, ``none``, ``required``, or the tool to call.
        parallel_tool_calls: Whether several tools may be called in one answer.
        modalities: Kinds of output, such as ``text`` and ``audio``.
        audio: Voice and format of audio output.
        extra: Anything else, passed on to the backend under its own name. What stands there
            under a secret's name (``Authorization``, ``api_key``) is sent, and never shown,
            dumped or written into an identifier.

    Raises:
        InvalidParamsError: If a field is unknown or a value does not fit.

    Example:
        >>> base = GenerateParams(temperature=0.5, extra={"user": "bob"})
        >>> base.merge_with(GenerateParams(temperature=1.0)).to_dict()
        {'temperature': 1.0, 'user': 'bob'}
    """

    model_config = ConfigDict(frozen=True)

    error_class: ClassVar[type[InvalidParamsError]] = InvalidParamsError

    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    top_k: int | None = Field(default=None, ge=-1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    presence_penalty: float | None = Field(default=None, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, allow_inf_nan=False)
    api_base: str | None = None
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("extra")
    @classmethod
    def _extra_hides_no_field(cls, extra: dict[str, Any]) -> dict[str, Any]:
        hidden = sorted(extra.keys() & cls.model_fields.keys())
        if hidden:
            raise ValueError(
                f"extra holds {', '.join(map(repr, hidden))}: set the field of that name instead"
            )
        return extra

    def merge_with(self, *others: GenerateParams | None) -> GenerateParams:
        """Combine parameters; always a new object, and nothing is changed.

        Args:
            others: What overrides, in rising order. A field that is None overrides
                nothing; ``extra`` merges key by key. None is skipped.

        Returns:
            The combined parameters.

        Raises:
            InvalidParamsError: If something else is given.
        """
        values = self.__dict__.copy()
        given = {*self.__pydantic_fields_set__, "extra"}
        extra = values["extra"]
        for other in others:
            if other is None:
                continue
            if not isinstance(other, GenerateParams):
                raise InvalidParamsError(
                    f"expected GenerateParams, got {type(other).__name__}: "
                    f"write GenerateParams(temperature=0.5, …)"
                )
            own = other.__dict__
            for name in other.__pydantic_fields_set__:
                value = own[name]
                if value is not None:
                    values[name] = value
                    given.add(name)
            # Which may have been filled after it was made.
            extra = {**extra, **own["extra"]}
        values["extra"] = extra
        # Each value was validated when its own object was made.
        return filled(type(self), _unshared(values), given)

    def unshared(self) -> GenerateParams:
        """Return parameters with containers of their own: themselves, if they hold none."""
        return self._copied() if self._holds_containers() else self

    def _copied(self) -> GenerateParams:
        return filled(type(self), _unshared(self.__dict__.copy()), {*self.__pydantic_fields_set__})

    def _holds_containers(self) -> bool:
        return any(_containers_of(self.__dict__))

    @field_serializer("extra")
    def _extra_without_secrets(self, extra: dict[str, Any]) -> dict[str, Any]:
        # Headers that are passed on may hold a key, and dumps end up in files.
        return without_secrets(extra) if extra else extra

    def __getstate__(self) -> dict[Any, Any]:
        # Of pickles only: copies keep what is sent.
        state = super().__getstate__()
        return {**state, "__dict__": {**self.__dict__, "extra": without_secrets(self.extra)}}

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        # What is not set says nothing.
        values = {**self.__dict__, "extra": without_secrets(self.extra) or None}
        return [(name, value) for name, value in values.items() if value is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return what is set, as a new dict; ``extra`` stands beside the other fields."""
        values = self.unshared()
        set_ = {k: v for k, v in values.__dict__.items() if v is not None and k != "extra"}
        return {**set_, **values.extra}


_NOTHING: Final = GenerateParams()


def no_params() -> GenerateParams:
    """Return `GenerateParams()`, at a part of its cost: every pipeline begins with one."""
    return _NOTHING._copied()


class Merged:
    """A generator's parameters, overridden by those of its requests, one after another.

    Most requests of a batch have the same ones, so the last result is given again, unless it
    holds what could be changed in place.

    Example:
        >>> merged, base = Merged(), GenerateParams(temperature=0.5)
        >>> merged(base, GenerateParams(max_tokens=9)).to_dict()
        {'temperature': 0.5, 'max_tokens': 9}
    """

    def __init__(self) -> None:
        self._last: tuple[GenerateParams | None, GenerateParams | None, GenerateParams] = (
            None,
            None,
            GenerateParams(),
        )

    def __call__(self, base: GenerateParams, own: GenerateParams) -> GenerateParams:
        """Return ``base.merge_with(own)``, or ``own`` where ``base`` says nothing."""
        last_base, last_own, merged = self._last
        if last_base is base and last_own is own:
            return merged
        if base.__dict__ == _NOTHING.__dict__:
            return own
        merged = base.merge_with(own)
        if not merged._holds_containers():
            self._last = base, own, merged
        return merged
