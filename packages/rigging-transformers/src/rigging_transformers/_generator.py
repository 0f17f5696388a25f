"""The generator of the provider ``transformers``."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from rigging import GeneratedMessage, GeneratedText, GenerateParams, Generator, Message, Usage
from rigging.error import (
    BadRequestError,
    InvalidGeneratorError,
    RiggingError,
    UnsupportedParameterWarning,
)
from rigging.snapshot import snapshot
from rigging_transformers._engine import Engine
from rigging_transformers._json import as_json
from rigging_transformers._loaded import Loaded, no_decoder
from rigging_transformers._prompts import check_conversation, read_template
from rigging_transformers._request import Outcome, Request
from rigging_transformers._sampling import UNSUPPORTED
from rigging_transformers._source import PROVIDER, LoadSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

__all__ = ["TransformersGenerator"]

_SelfT = TypeVar("_SelfT", bound="TransformersGenerator")
_DeviceMapT = TypeVar("_DeviceMapT")
_ResultT = TypeVar("_ResultT", GeneratedMessage, GeneratedText)


_QUANTIZATION: Final = "quantization_config"
_WRAP: Final = "wrap a model that you have loaded by from_obj()"

# Fields that decide what is loaded: a model that is there already has them for good.
_LOADING: Final = frozenset(
    {"api_key", "torch_dtype", *(field.name for field in dataclasses.fields(LoadSpec))}
    - {"model", "token"}
)

# What model_kwargs may not hold -> what to do.
_SET_ELSEWHERE: Final = {
    **{
        name: f"set the field {name!r}"
        for name in (
            "attn_implementation",
            "device_map",
            "dtype",
            "load_in_4bit",
            "load_in_8bit",
            "revision",
            "trust_remote_code",
        )
    },
    "api_key": "set the field 'api_key'",
    "adapter_kwargs": "set the field 'adapter'",
    "config": _WRAP,
    "gguf_file": "give the file's path as the model",
    "hf_token": "set the field 'api_key'",
    "output_loading_info": _WRAP,
    "pretrained_model_name_or_path": "set the field 'model'",
    "state_dict": _WRAP,
    "token": "set the field 'api_key'",
    "torch_dtype": "set the field 'dtype'",
    "use_auth_token": "set the field 'api_key'",
}


def _dtype_name(value: object) -> object:
    """Let a dtype be torch's own object, or its name with the module."""
    name = str(value) if type(value).__module__ == "torch" else value
    return name.removeprefix("torch.") if isinstance(name, str) else name


class TransformersGenerator(Generator):
    """Continues conversations and texts with a causal language model, by transformers.

    The model is loaded when it is first needed, or by `load`. Loading and generating run
    in a thread of the generator's own. All requests feed one batch, whichever calls and
    event loops they come from: a request joins those that run, and leaves when it is
    answered. What is wrong with ``model`` is said when it is loaded.

    How parameters are understood: ``temperature`` 0 is greedy; a temperature above 0,
    ``top_p`` or ``top_k`` makes generation sampled; where none is given, the model's own
    generation config decides. ``max_tokens`` is bounded by the model's context, and is by
    default ``max_new_tokens`` of the generation config, else 512. ``stop`` may also name a
    special token. ``seed`` gives a request random numbers of its own; with weights in half
    precision or quantised, a batch of its own, too, which is slower. ``timeout`` counts
    from the call, waiting and loading included.
    ``extra`` goes to transformers' ``generate``, such as ``extra.num_beams=4``; such
    requests run in batches of their own, beside the others. ``tools`` go to the chat
    template; calls that the model writes stay text.

    Attributes:
        model: A hub id, a directory with configuration, tokenizer and weights, or a GGUF
            file (which needs the package ``gguf``).
        api_key: A hub token, for gated and private models.
        dtype: Type of the weights; None for what the model was saved in. ``torch_dtype``
            is another name for it.
        device_map: Where the weights go, as in transformers; None for the accelerator
            where there is one (``auto``), else the CPU.
        attn_implementation: How attention is computed, such as ``eager`` or ``sdpa``; None
            for what transformers takes by itself.
        revision: Branch, tag or commit of the model and its tokenizer on the hub.
        adapter: A PEFT adapter that is put on the model: a directory or a hub id (needs
            the package ``peft``).
        chat_template: How conversations are laid out: Jinja text, or the path of a file
            that holds it and is read when first needed; None for the model's own.
        trust_remote_code: Run code that comes with the model. Only for authors you trust.
        load_in_8bit: Quantise to 8 bits while loading (needs ``bitsandbytes``).
        load_in_4bit: Quantise to 4 bits while loading (needs ``bitsandbytes``).
        dequantize: Unpack a GGUF file's weights into ``dtype`` while loading: many times
            faster on a CPU, at several times the file's memory. False leaves them packed
            where transformers can compute on them.
        model_kwargs: Anything else that transformers' ``from_pretrained`` takes, such as
            ``model_kwargs.local_files_only=true`` in an identifier.
        max_batch_size: How many requests are generated for at once; what comes beyond that
            waits. More is faster, and takes more memory.

    Raises:
        InvalidGeneratorError: If a field is unknown or a value does not fit.

    Example:
        >>> import rigging as rg
        >>> generator = rg.get_generator("transformers!org/model,max_tokens=50,dtype=float32")
        >>> generator.dtype, generator.params.max_tokens
        ('float32', 50)

    Source:
        transformers, "Text generation" and "Quantization: GGUF".
    """

    plugin_api: ClassVar[int] = 1
    key_variables: ClassVar[tuple[str, ...]] = ("HF_TOKEN",)  # of the hub that has the models
    # The engine makes batches of the calls, and each call ends by itself.
    batch_size: ClassVar[int | None] = 1

    dtype: Annotated[
        Literal["auto", "float16", "bfloat16", "float32", "float64"] | None,
        BeforeValidator(_dtype_name),
    ] = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    device_map: str | int | dict[str, str | int] | None = None
    attn_implementation: str | None = None
    revision: str | None = None
    adapter: str | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    dequantize: bool = True
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_batch_size: int = Field(default=64, ge=1)

    _engine: Engine = PrivateAttr(default_factory=Engine)
    _warned: set[str] = PrivateAttr(default_factory=set)
    _templates: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _one_quantization(self: _SelfT) -> _SelfT:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit exclude each other: set one")
        if (self.load_in_8bit or self.load_in_4bit) and _QUANTIZATION in self.model_kwargs:
            raise ValueError(
                f"load_in_8bit and load_in_4bit are a {_QUANTIZATION} themselves: "
                f"set one of the three"
            )
        return self

    @field_validator("device_map")
    @classmethod
    def _holds_weights(cls, device_map: _DeviceMapT) -> _DeviceMapT:
        parts = device_map.values() if isinstance(device_map, dict) else [device_map]
        if "meta" in parts:
            raise ValueError("'meta' holds no weights: name a device that does")
        if device_map == {}:
            raise ValueError("the mapping is empty: name parts and their devices, or leave it out")
        return device_map

    @field_validator("model_kwargs")
    @classmethod
    def _hides_no_field(cls, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        for name, value in model_kwargs.items():
            if name in _SET_ELSEWHERE:
                raise ValueError(f"model_kwargs holds {name!r}: {_SET_ELSEWHERE[name]} instead")
            if name == _QUANTIZATION and isinstance(value, str):
                raise ValueError(
                    f"{name}: expected a mapping such as "
                    f'{{"quant_method": "bitsandbytes", "load_in_4bit": true}}, got text'
                )
        return {name: as_json(value, name) for name, value in model_kwargs.items()}

    @classmethod
    def from_obj(cls: type[_SelfT], model: Any, tokenizer: Any, **fields: Any) -> _SelfT:
        """Wrap a model that is already in memory.

        It stays the caller's: it is used as it is (call ``model.eval()`` after training),
        never changed, and `unload` leaves it alone. Such a generator cannot be pickled.

        Args:
            model: A causal language model of transformers.
            tokenizer: Its tokenizer.
            fields: Of the generator: ``params``, ``chat_template`` and ``max_batch_size``.
                ``model`` is filled from the model's configuration.

        Raises:
            InvalidGeneratorError: If a field is unknown, decides what is loaded, or a value
                does not fit.

        Example:
            >>> from transformers import AutoModelForCausalLM, AutoTokenizer  # doctest: +SKIP
            >>> model = AutoModelForCausalLM.from_pretrained("org/model")  # doctest: +SKIP
            >>> tokenizer = AutoTokenizer.from_pretrained("org/model")  # doctest: +SKIP
            >>> generator = TransformersGenerator.from_obj(model, tokenizer)  # doctest: +SKIP
        """
        if not (hasattr(model, "config") and callable(getattr(model, "generate", None))):
            raise InvalidGeneratorError(
                f"from_obj(model, tokenizer) takes a causal language model of transformers, "
                f"got {type(model).__name__}"
            )
        if getattr(model.config, "is_encoder_decoder", False):
            raise InvalidGeneratorError(no_decoder(model.config))
        if not hasattr(model, "dtype"):
            raise InvalidGeneratorError(
                f"a {type(model).__name__} wraps a model of transformers: give that model"
            )
        if hasattr(tokenizer, "tokenizer"):
            raise InvalidGeneratorError(
                f"a {type(tokenizer).__name__} is a processor, for images or audio, too: give its "
                f"tokenizer, `processor.tokenizer`"
            )
        if not (callable(tokenizer) and hasattr(tokenizer, "chat_template")):
            raise InvalidGeneratorError(
                f"from_obj(model, tokenizer) takes the model's tokenizer, "
                f"got {type(tokenizer).__name__}"
            )
        for field in fields:
            if field in _LOADING:
                raise _already_loaded(cls, field)
        name = getattr(model.config, "name_or_path", None) or type(model).__name__
        generator = cls(model=name, **fields)
        generator._engine = Engine(Loaded(model, tokenizer, name))
        return generator

    def load(self: _SelfT) -> _SelfT:
        """Load the model now, and wait for it. Does nothing if it is loaded.

        Returns:
            The generator itself.

        Raises:
            ModelNotFoundError: If ``model`` names nothing, or a directory that lacks
                something.
            MissingDependencyError: If a package that it needs is not installed.
            ProviderConnectionError: If it is neither in the cache nor the hub in reach.
            BadRequestError: If ``chat_template`` is a path to nothing, or the adapter does
                not fit.
            GenerationError: If it does not load; the subclass says why.
        """
        self._template()
        self._engine.load(self._spec())
        return self

    def unload(self: _SelfT) -> _SelfT:
        """Give the model's memory back, once running requests are answered.

        The next use loads it again. Does nothing if none is loaded, or if it came by
        `from_obj`.

        Returns:
            The generator itself.
        """
        self._engine.unload()
        return self

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message, laid out by the model's chat template.

        Args:
            messages: Conversations, shape ``(batch, length_i)``; text only.
            params: Override the generator's own; one per conversation.

        Returns:
            One result or failure per conversation, in order; a model that cannot be loaded
            fails each, see `load`. Usage counts the token that ended an answer, too.
        """
        return await self._generate([tuple(m) for m in messages], params, GeneratedMessage)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text; the prompt is no part of the result.

        Args:
            texts: Prompts, shape ``(batch,)``.
            params: Override the generator's own; one per text.

        Returns:
            One result or failure per text, in order; see `generate_messages`.
        """
        return await self._generate(texts, params, GeneratedText)

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedMessage, None]:
        """Continue one conversation, text by text, in the same batch as all others.

        Closing the stream, or cancelling its reader, frees its place.

        Args:
            messages: The conversation; text only.
            params: Override the generator's own.

        Yields:
            Pieces of the text: whole characters, and nothing of a stop text. Then the
            finished result.

        Raises:
            RiggingError: If the model cannot be loaded (see `load`), or the request fails.
        """
        pieces = self._stream(tuple(messages), params, GeneratedMessage)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def stream_texts(
        self, text: str, params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedText, None]:
        """Continue one text, piece by piece; see `stream_messages`.

        Args:
            text: The prompt.
            params: Override the generator's own.

        Yields:
            Pieces of the text, then the finished result.

        Raises:
            RiggingError: If the model cannot be loaded (see `load`), or the request fails.
        """
        pieces = self._stream(text, params, GeneratedText)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {*_LOADING, "model"} and self._engine.is_borrowed:
            raise _already_loaded(type(self), name)
        super().__setattr__(name, value)

    def __copy__(self: _SelfT) -> _SelfT:
        copied = super().__copy__()
        # Two generators never share what one loads: each could change what the other has.
        copied._engine = self._engine.twin()
        copied._warned = set()
        copied._templates = {}
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        if self._engine.is_borrowed:
            raise RiggingError(
                f"a generator made by {type(self).__name__}.from_obj cannot be pickled: the model "
                f"object would not go along. Save the model to a directory and name that: "
                f"{type(self).__name__}(model=directory)"
            )
        return super().__reduce__()

    async def _generate(
        self,
        prompts: Sequence[str | tuple[Message, ...]],
        params: Sequence[GenerateParams],
        kind: type[_ResultT],
    ) -> list[_ResultT | BaseException]:
        # Said before a model is loaded for nothing.
        asked = [
            self._request_or_refusal(prompt, own, kind)
            for prompt, own in zip(prompts, params, strict=True)
        ]
        sent = [one for one in asked if isinstance(one, Request)]
        answers = iter(await self._ready().run(self._spec(), sent) if sent else [])
        outcomes = [next(answers) if isinstance(one, Request) else one for one in asked]
        return [
            self._result(outcome, kind) if isinstance(outcome, Outcome) else outcome
            for outcome in outcomes
        ]

    async def _stream(
        self, prompt: str | tuple[Message, ...], params: GenerateParams, kind: type[_ResultT]
    ) -> AsyncGenerator[str | _ResultT, None]:
        request = self._request(prompt, params, kind)
        pieces = self._ready().stream(self._spec(), request)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece if isinstance(piece, str) else self._result(piece, kind)

    def _request_or_refusal(
        self, prompt: str | tuple[Message, ...], params: GenerateParams, kind: type[_ResultT]
    ) -> Request | RiggingError:
        try:
            return self._request(prompt, params, kind)
        except RiggingError as error:
            return error

    def _request(
        self, prompt: str | tuple[Message, ...], params: GenerateParams, kind: type[_ResultT]
    ) -> Request:
        # What the generator holds is overridden by what the call passes.
        own = self.params.merge_with(params)
        # A text has no place for tools.
        unsupported = UNSUPPORTED if kind is GeneratedMessage else (*UNSUPPORTED, "tools")
        self._warn_unsupported(name for name in unsupported if getattr(own, name) is not None)
        deadline = time.monotonic() + own.timeout if own.timeout else None
        if isinstance(prompt, str):
            return Request(prompt, own, deadline)
        check_conversation(prompt)
        return Request(prompt, own, deadline, self._template())

    def _template(self) -> str | None:
        given = self.chat_template
        if given is not None and given not in self._templates:
            try:
                self._templates[given] = read_template(given)
            except BadRequestError as error:
                error.provider, error.model = PROVIDER, self.model
                raise
        return None if given is None else self._templates[given]

    def _result(self, outcome: Outcome, kind: type[_ResultT]) -> _ResultT:
        self._warn_unsupported(outcome.ignored)
        usage = Usage.of(outcome.input_tokens, outcome.output_tokens)
        return kind.from_text(outcome.text, outcome.stop_reason, usage=usage)

    def _ready(self) -> Engine:
        self._engine.max_rows = self.max_batch_size
        return self._engine

    def _spec(self) -> LoadSpec:
        return LoadSpec(
            model=self.model,
            dtype=self.dtype,
            # Copies, so that a change in place is noticed.
            device_map=snapshot(self.device_map),
            attn_implementation=self.attn_implementation,
            revision=self.revision,
            adapter=self.adapter,
            trust_remote_code=self.trust_remote_code,
            load_in_8bit=self.load_in_8bit,
            load_in_4bit=self.load_in_4bit,
            dequantize=self.dequantize,
            model_kwargs=snapshot(self.model_kwargs),
            token=self.api_key,
        )

    def _warn_unsupported(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._warned:
                continue
            self._warned.add(name)
            warnings.warn(
                f"transformers!{self.model} cannot honour {name!r}: it is left out",
                UnsupportedParameterWarning,
                stacklevel=5,
            )


def _already_loaded(cls: type[TransformersGenerator], field: str) -> InvalidGeneratorError:
    reason = (
        f"{field} decides how a model is loaded, and from_obj() takes one that is loaded already: "
        f"load yours like that, or write {cls.__name__}(model=…, {field}=…)"
    )
    return InvalidGeneratorError(f"{cls.__name__}: {reason}", [(field, reason)])
