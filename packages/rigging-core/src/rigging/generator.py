"""Generators, and the strings that name them.

A `Generator` is anything that continues conversations or texts: a local model, an
endpoint, a function. Subclass it, implement `generate_messages`, `generate_texts` or
both, and every pipeline runs it; `register_generator` or an entry point of the group
``rigging.generators`` gives it a name that `get_generator` understands.

The classes of installed providers can be had here by their own name, without core
knowing them: ``rigging.generator.LiteLLMGenerator`` is whatever installed entry point
ends in that name, imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from rigging._building import DEFAULT_PROVIDER, build, load_plugins
from rigging._fields import options_of, write_more, write_options
from rigging._model import Model, Snapshot
from rigging._scheduler import Schedulers
from rigging.chat import Chat, ChatPipeline
from rigging.completion import Completion, CompletionPipeline
from rigging.error import (
    InvalidGeneratorError,
    InvalidMessageError,
    NotSupportedError,
    UnregisteredGeneratorError,
)
from rigging.identifier import Identifier, encode_any
from rigging.message import Message, MessageLike
from rigging.params import GenerateParams, no_params
from rigging.redaction import is_secret, without_secrets
from rigging.registry import PLUGIN_API, Registration, registry
from rigging.result import GeneratedMessage, GeneratedText

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

__all__ = [
    "DEFAULT_PROVIDER",
    "GenerateParams",
    "GeneratedMessage",
    "GeneratedText",
    "Generator",
    "get_generator",
    "get_identifier",
    "register_generator",
]

_OWN_FIELDS: Final = frozenset({"model", "api_key", "params"})
# What a subclass may set, as an attribute or as a field.
_BOUNDS: Final = frozenset({"batch_size", "max_calls"})

_SelfT = TypeVar("_SelfT", bound="Generator")
_NameT = TypeVar("_NameT", str, str | None)


class Generator(Model):
    """Base class of everything that continues conversations or texts.

    The contract, which `rigging.testing.GeneratorContract` checks: one result per input,
    in order; an exception in the returned list is that item's failure and nobody else's;
    each item has its own params, which override what the generator holds
    (``self.params.merge_with(own)``); nothing is mutated; the event loop is never blocked.

    A subclass whose ``model_config`` has ``extra="allow"`` takes other keys of an identifier,
    too: it finds them in ``model_extra``, read as ``extra.NAME`` is, and refuses those that it
    does not know. What stands there under a secret's name is never shown, dumped or pickled.

    ``batch_size``, an attribute or a field of the subclass, says how many requests one
    call may carry: None, or no such attribute, all that are waiting; 1 each on its own,
    concurrently (remote services); n groups of up to n. ``max_calls`` likewise says how
    many calls may be in flight; what arrives meanwhile joins the next one. Where there is a
    ``max_connections``, a batch has twice as many items in progress, and at least 64.

    Attributes:
        model: Which model, in the provider's own terms.
        api_key: The key, if one is needed. It is never dumped, shown or pickled.
        params: Generation parameters that hold unless a call overrides them.

    Raises:
        InvalidGeneratorError: If a field is unknown or a value does not fit.

    Example:
        >>> class Shout(Generator):
        ...     mark: str = "!"
        ...     async def generate_messages(self, messages, params):
        ...         return [
        ...             GeneratedMessage.from_text(conversation[-1].text.upper() + self.mark)
        ...             for conversation in messages
        ...         ]
        >>> registration = register_generator("shout", Shout)
        >>> get_generator("shout!loud,mark=?").to_identifier()
        'shout!loud,mark=?'
        >>> registration.undo()
    """

    model_config = ConfigDict(validate_assignment=True)

    error_class: ClassVar[type[InvalidGeneratorError]] = InvalidGeneratorError

    #: The version of the plugin contract that the class was written for.
    plugin_api: ClassVar[int] = PLUGIN_API

    #: Environment variables that may hold the key, for those who look for what is missing.
    key_variables: ClassVar[tuple[str, ...]] = ()

    # Without values here, so that a subclass may also make them fields.
    batch_size: ClassVar[int | None]
    max_calls: ClassVar[int | None]

    model: str = Field(min_length=1)
    api_key: str | None = Field(default=None, repr=False, exclude=True)
    params: GenerateParams = Field(default_factory=GenerateParams)

    _schedulers: Schedulers = PrivateAttr(default_factory=Schedulers)
    _chat_watches: tuple[Callable[[Chat], Any], ...] = PrivateAttr(default=())
    _completion_watches: tuple[Callable[[Completion], Any], ...] = PrivateAttr(default=())
    # What `to_identifier` returned last, and what it was written from.
    _last_written: tuple[object, Snapshot, str] = PrivateAttr(default=(None, Snapshot({}), ""))

    # -- For users -----------------------------------------------------------------------

    def chat(
        self,
        messages: MessageLike | Sequence[MessageLike] = (),
        params: GenerateParams | None = None,
    ) -> ChatPipeline:
        """Start a conversation.

        Args:
            messages: A str (what the user says), a message, a dict in OpenAI's shape, or a
                sequence of these.
            params: Override the generator's own, field by field.

        Raises:
            InvalidMessageError: If something in ``messages`` is no message.
        """
        return ChatPipeline(
            self,
            tuple(Message.fit_as_list(messages)),
            params=no_params() if params is None else no_params().merge_with(params),
            watches=self._chat_watches,
        )

    def complete(self, text: str, params: GenerateParams | None = None) -> CompletionPipeline:
        """Start a text that is to be continued.

        Args:
            text: The prompt; it is sent exactly as given.
            params: Override the generator's own, field by field.

        Raises:
            InvalidMessageError: If ``text`` is no str.
        """
        if not isinstance(text, str):
            raise InvalidMessageError(
                f"complete() takes a str, got {type(text).__name__}; conversations go to chat()"
            )
        return CompletionPipeline(
            self,
            text,
            params=no_params() if params is None else no_params().merge_with(params),
            watches=self._completion_watches,
        )

    def watch(
        self: _SelfT,
        *,
        chats: Callable[[Chat], Any] | None = None,
        completions: Callable[[Completion], Any] | None = None,
    ) -> _SelfT:
        """Show everything that pipelines made from now on finish to callbacks.

        Args:
            chats: Gets each finished chat; see `ChatPipeline.watch`.
            completions: Gets each finished completion.

        Returns:
            The generator.
        """
        if chats is not None:
            self._chat_watches = (*self._chat_watches, chats)
        if completions is not None:
            self._completion_watches = (*self._completion_watches, completions)
        return self

    @property
    def schedulers(self) -> Schedulers:
        """Where requests to this generator wait for each other, per event loop."""
        return self._schedulers

    def to_identifier(self, params: GenerateParams | None = None, *, short: bool = False) -> str:
        """Return the string that leads back to this generator, without its key.

        Args:
            params: Override the generator's own params in the string.
            short: Stop after the model.

        Raises:
            UnregisteredGeneratorError: If no provider name leads to the class.
            InvalidGeneratorError: If a field holds what cannot be written.
        """
        load_plugins()  # which may have registered the class
        name = registry.name_of(type(self))
        if name is None:
            raise UnregisteredGeneratorError(type(self))
        if short or params is not None:
            return self._written(name, params, short=short)
        # Every run asks for it, and writing it anew costs more than the rest of a request.
        fields = {**self.__dict__, **(self.model_extra or {})}
        last_name, seen, text = self._last_written
        if name != last_name or not seen.matches(fields):
            text = self._written(name, None, short=False)
            self._last_written = name, Snapshot(fields), text
        return text

    def load(self: _SelfT) -> _SelfT:
        """Bring the model into memory, where there is one to bring; may be repeated.

        Local providers load when first used; this does it now.
        """
        return self

    def unload(self: _SelfT) -> _SelfT:
        """Give the model's memory back; the next use loads it again. May be repeated."""
        return self

    # -- For subclasses to implement -----------------------------------------------------

    async def generate_messages(
        self,
        messages: Sequence[Sequence[Message]],  # noqa: ARG002 (for subclasses)
        params: Sequence[GenerateParams],  # noqa: ARG002
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message.

        Args:
            messages: Conversations, shape ``(batch, length_i)``.
            params: Override the generator's own; one per conversation.

        Returns:
            One result per conversation, in order; an exception is that item's failure.

        Raises:
            NotSupportedError: If the generator works on texts only.
        """
        raise NotSupportedError(
            f"{type(self).__name__} does not continue conversations: it has no "
            f"generate_messages. Use complete() instead of chat()."
        )

    async def generate_texts(
        self,
        texts: Sequence[str],  # noqa: ARG002 (for subclasses)
        params: Sequence[GenerateParams],  # noqa: ARG002
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text.

        Args:
            texts: Prompts, shape ``(batch,)``.
            params: Override the generator's own; one per text.

        Returns:
            One result per text, in order; an exception is that item's failure.

        Raises:
            NotSupportedError: If the generator works on conversations only.
        """
        raise NotSupportedError(
            f"{type(self).__name__} does not continue texts: it has no generate_texts. "
            f"Use chat() instead of complete()."
        )

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncIterator[str | GeneratedMessage]:
        """Continue one conversation, text by text. Optional: here the text comes in one piece.

        Args:
            messages: The conversation.
            params: Override the generator's own.

        Yields:
            Pieces of the text as they come, then the finished result as the last item.

        Raises:
            NotSupportedError: If the generator works on texts only.
            GenerationError: If the provider failed.
        """
        (result,) = await self.generate_messages([messages], [params])
        if isinstance(result, BaseException):
            raise result
        yield result.message.text
        yield result

    async def stream_texts(
        self, text: str, params: GenerateParams
    ) -> AsyncIterator[str | GeneratedText]:
        """Continue one text, piece by piece. Optional: here it comes in one piece.

        Args:
            text: The prompt.
            params: Override the generator's own.

        Yields:
            Pieces of the text as they come, then the finished result as the last item.

        Raises:
            NotSupportedError: If the generator works on conversations only.
            GenerationError: If the provider failed.
        """
        (result,) = await self.generate_texts([text], [params])
        if isinstance(result, BaseException):
            raise result
        yield result.text
        yield result

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # What a subclass makes a field of is a class variable no longer: it can be assigned.
        cls.__class_vars__ = cls.__class_vars__ - cls.model_fields.keys()

    # -- How it behaves as a value -------------------------------------------------------

    if not TYPE_CHECKING:  # it would let any name pass

        def __getattr__(self, name: str) -> Any:
            # Each run asks for these, and pydantic takes long to say that it has none.
            return None if name in _BOUNDS else super().__getattr__(name)

    def __eq__(self, other: object) -> bool:
        # Neither the key nor the loaded engine makes a generator another one.
        if not isinstance(other, Generator) or type(self) is not type(other):
            return NotImplemented
        return self._values() == other._values()

    # Fields can be assigned, so there is no hash that would stay.
    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise self.refusal(error) from None

    def __copy__(self: _SelfT) -> _SelfT:
        copied = super().__copy__()
        # The old ones send to the generator that they were made for.
        copied._schedulers = Schedulers()
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        # Neither the key nor an engine goes into a pickle: the other side loads its own.
        return _restore, (type(self), self._values())

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return self._shown(super().__repr_args__())

    @model_serializer(mode="wrap")
    def _dump_without_secrets(self, dump: SerializerFunctionWrapHandler) -> dict[str | None, Any]:
        return dict(self._shown(dump(self).items()))

    def _values(self) -> dict[str, Any]:
        values = {**self.__dict__, **(self.model_extra or {})}
        return {name: value for name, value in self._shown(values.items()) if name != "api_key"}

    def _shown(self, values: Iterable[tuple[_NameT, Any]]) -> Iterator[tuple[_NameT, Any]]:
        """Leave out the secrets that stand under their names, in fields and beside them."""
        options, secret = options_of(type(self)), _secrets(self)
        for name, value in values:
            if name not in secret:
                option = options.get(name or "")
                yield name, without_secrets(value) if option is None else option.public(value)

    def _written(
        self, name: tuple[str, str | None], params: GenerateParams | None, *, short: bool
    ) -> str:
        provider, distribution = name
        try:
            options = {} if short else self._options(self.params.merge_with(params))
            text = Identifier(self.model, provider, distribution, options).format()
            text.encode()
        except InvalidGeneratorError:
            raise
        except ValueError as error:  # half a character, or an integer of thousands of digits
            raise InvalidGeneratorError(
                f"{type(self).__name__} cannot be written as an identifier: {error}"
            ) from error
        return text

    def _options(self, params: GenerateParams) -> dict[str, str]:
        own = write_options(self, set(type(self).model_fields) - _OWN_FIELDS)
        shared = write_options(params, set(GenerateParams.model_fields) - {"extra"})
        # A field of the class hides the parameter of the same name.
        hidden = options_of(type(self)).keys() & shared.keys()
        public = without_secrets(params.extra)
        extra = {f"extra.{name}": encode_any(public[name]) for name in sorted(public)}
        return (
            own
            | write_more(self)
            | {f"params.{name}" if name in hidden else name: raw for name, raw in shared.items()}
            | extra
        )


registry.contract = Generator


def _secrets(generator: Generator) -> set[str]:
    """Return the names that are no fields and hold what must never be shown."""
    return {name for name in generator.model_extra or () if is_secret(name)}


def _restore(cls: type[Generator], values: dict[str, Any]) -> Generator:
    return cls.model_construct(**values)


# -- Names -------------------------------------------------------------------------------


def get_generator(identifier: str, *, params: GenerateParams | None = None) -> Generator:
    """Make the generator that an identifier names. Nothing is loaded or sent yet.

    Args:
        identifier: ``<provider>!<model>,<key>=<value>,…``; without a provider,
            `DEFAULT_PROVIDER`. Each key is a field of the generator's class or of
            `GenerateParams`, or ``extra.NAME``.
        params: Override the params in the identifier, field by field.

    Returns:
        A new generator.

    Raises:
        InvalidIdentifierError: If the string is malformed, or a key or value does not fit.
        ProviderLookupError: If the provider cannot be had; its subclasses say why.

    Example:
        >>> from rigging.testing import EchoGenerator
        >>> with register_generator("echo", EchoGenerator):
        ...     get_generator("echo!any,temperature=0.5,stop=a;b").params.stop
        ['a', 'b']
    """
    return cast("Generator", build(identifier, params))


def get_identifier(
    generator: Generator, params: GenerateParams | None = None, *, short: bool = False
) -> str:
    """Return the string that leads back to a generator; the same as its `to_identifier`.

    Args:
        generator: What to name.
        params: Override the generator's own params in the string.
        short: Stop after the model.

    Raises:
        UnregisteredGeneratorError: If no provider name leads to the class.
        InvalidGeneratorError: If a field holds what cannot be written.
    """
    return generator.to_identifier(params, short=short)


def register_generator(
    provider: str, generator: type[Generator] | Callable[[], type[Generator]]
) -> Registration:
    """Give a generator's class a name in this process, in front of installed providers.

    Args:
        provider: The name; case does not matter. Replacing an installed provider is
            allowed, and logged at INFO.
        generator: The class, or a callable without arguments that returns it and is
            called once, when the class is first needed.

    Returns:
        The registration: call `Registration.undo`, or use it as a context manager.

    Raises:
        InvalidGeneratorError: If the name cannot be a provider's, or ``generator`` is
            neither a `Generator` class nor a callable.
    """
    if isinstance(generator, type) and not issubclass(generator, Generator):
        raise InvalidGeneratorError(
            f"{generator.__qualname__} is not a subclass of rigging.Generator, "
            f"so it cannot be registered as {provider!r}"
        )
    return registry.register(provider, generator)


def __getattr__(name: str) -> Any:
    # Any class that an installed entry point names; core knows none of them.
    if not name.startswith("_"):
        found = registry.find_attribute(name, base=Generator)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
