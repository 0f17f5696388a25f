"""The generator: conversations and texts, continued by a model that vLLM runs here."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from rigging.error import InvalidGeneratorError, RiggingError, UnsupportedParameterWarning
from rigging.generator import Generator
from rigging.params import GenerateParams, Merged
from rigging.result import GeneratedMessage, GeneratedText
from rigging.snapshot import snapshot
from rigging_vllm._arguments import engine_arguments, unknown_name
from rigging_vllm._borrowed import BorrowedAsyncLLM, BorrowedLLM
from rigging_vllm._engine import Engine, OwnEngine
from rigging_vllm._request import Answer, Request
from rigging_vllm._results import ResultT, result
from rigging_vllm._sampling import UNSUPPORTED
from rigging_vllm._source import PROVIDER
from rigging_vllm._spec import EngineSpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from rigging.message import Message

__all__ = ["VLLMGenerator"]

# Fields that are no engine arguments, or not as they are.
_OURS: Final = frozenset({"model", "api_key", "params", "lora_modules"})


class VLLMGenerator(Generator):
    """A model that vLLM runs on this machine.

    ``model`` is a hub id, a directory, or a ``.gguf`` file. vLLM is imported and its engine
    started, in a process of its own, by the first request, or by `load`. The fields are its
    arguments under vLLM's names; any other is given by its own name, too, such as
    ``block_size=32``. None leaves one to vLLM. One engine serves
    all requests, whichever calls, threads and event loops they come from: each joins the
    batch that runs, and leaves it when it is answered. An engine that has died fails the
    requests that it had, and the next request starts another.

    Conversations go through the model's chat template. What ``extra`` holds goes to
    vLLM's ``SamplingParams`` under its own name, such as ``extra.min_p=0.1``; ``extra.lora``
    names a LoRA adapter. Without ``max_tokens`` an answer may fill the context. ``timeout``
    counts from the call, waiting and loading included. A model's calls of tools come back
    as the text that it wrote.

    Attributes:
        dtype: Type of weights and activations; ``auto`` is what the model's files say.
        quantization: How the weights are quantized; None is what the model's files say.
        gpu_memory_utilization: Share of each GPU's memory that the engine takes, 0 to 1.
        enforce_eager: Do without compiled graphs: starts sooner, runs slower.
        trust_remote_code: Run code that comes with the model.
        tensor_parallel_size: GPUs that share each layer.
        pipeline_parallel_size: Groups of GPUs that share the layers.
        max_model_len: Most tokens of prompt and answer together.
        max_num_seqs: Most requests that the engine advances at once.
        seed: Of the engine, for sampling without a seed of its own. A request's is
            ``params.seed``.
        revision: Branch, tag or commit of a model on the hub.
        lora_modules: LoRA adapters: name to directory or hub id. A request chooses one by
            ``extra.lora=NAME``.
        api_key: A hub token, for gated and private models.

    Raises:
        RiggingError: At the first request or `load`: `ModelNotFoundError`,
            `MissingDependencyError`, `InvalidGeneratorError` if vLLM refuses the fields.

    Example:
        >>> import rigging as rg
        >>> generator = rg.get_generator("vllm!org/name,max_model_len=4096,temperature=0.5")
        >>> generator.to_identifier()
        'vllm!org/name,max_model_len=4096,temperature=0.5'

    Source:
        vLLM documentation, "Offline inference" and "Engine arguments".
    """

    model_config = ConfigDict(extra="allow")

    plugin_api: ClassVar[int] = 1
    key_variables: ClassVar[tuple[str, ...]] = ("HF_TOKEN",)  # of the hub that has the models
    # The engine makes batches of the calls, and each call ends by itself.
    batch_size: ClassVar[int | None] = 1
    max_calls: ClassVar[int | None] = None

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    quantization: str | None = None
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    enforce_eager: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = Field(default=1, ge=1)
    pipeline_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    seed: int | None = None
    revision: str | None = None
    lora_modules: dict[str, str] = Field(default_factory=dict)

    _engine: Engine = PrivateAttr(default_factory=OwnEngine)
    _merged: Merged = PrivateAttr(default_factory=Merged)
    _warned: set[str] = PrivateAttr(default_factory=set)
    # What the fields were when they were looked at last, and which engine that means.
    _last: tuple[dict[str, Any], EngineSpec] = PrivateAttr(default=({}, EngineSpec("")))

    def __init__(self, **data: Any) -> None:
        for name in data:
            self._refuse_unknown(name)
        super().__init__(**data)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._refuse_unknown(name)
        super().__setattr__(name, value)

    @classmethod
    def from_obj(
        cls,
        model: str,
        llm: Any,
        *,
        params: GenerateParams | None = None,
        lora_modules: Mapping[str, str] | None = None,
    ) -> VLLMGenerator:
        """Wrap an engine that exists already.

        The engine stays the caller's: `unload` leaves it alone. Such a generator cannot be
        pickled, since an engine cannot.

        An ``AsyncLLM`` answers on its own event loop, which has to run, wherever requests
        come from; so nothing on that loop may wait for it by the ``…_sync`` methods. With an
        ``LLM``, what waits goes out as one batch from a thread, and nobody else may use it
        meanwhile; its streams come in one piece.

        Args:
            model: Its name, for the identifier and for errors.
            llm: A ``vllm.LLM``, or a ``vllm.v1.engine.async_llm.AsyncLLM``.
            params: Generation parameters that hold unless a call overrides them.
            lora_modules: LoRA adapters by name, for an engine with ``enable_lora``.

        Raises:
            InvalidGeneratorError: If ``llm`` is neither.
        """
        engine: Engine
        if not isinstance(llm, type) and hasattr(llm, "llm_engine") and hasattr(llm, "enqueue"):
            engine = BorrowedLLM(llm)
        elif not isinstance(llm, type) and hasattr(llm, "output_handler"):
            engine = BorrowedAsyncLLM(llm)
        else:
            raise InvalidGeneratorError(
                f"from_obj() takes a vllm.LLM or an AsyncLLM, got "
                f"{type(llm).__module__}.{type(llm).__name__}"
            )
        generator = cls(
            model=model, params=params or GenerateParams(), lora_modules=dict(lora_modules or {})
        )
        generator._engine = engine
        return generator

    def load(self) -> VLLMGenerator:
        """Start the engine now; blocks until it runs. Does nothing if it does.

        Raises:
            RiggingError: As the class says.
        """
        self._engine.load(self._spec())
        return self

    def unload(self) -> VLLMGenerator:
        """Shut the engine down and give its memory back; the next use starts another.

        Blocks until requests that were made before are answered. An engine given to
        `from_obj` is left alone.
        """
        self._engine.unload()
        return self

    async def generate_messages(
        self, messages: Sequence[Sequence[Message]], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedMessage | BaseException]:
        """Continue each conversation by one message.

        Args:
            messages: Conversations, shape ``(batch, length_i)``.
            params: Override the generator's own; one per conversation.

        Returns:
            One result or failure per conversation, in order; an engine that cannot be
            started fails each.
        """
        return await self._generate(map(tuple, messages), params, GeneratedMessage)

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text.

        Args:
            texts: Prompts, shape ``(batch,)``.
            params: Override the generator's own; one per text.

        Returns:
            One result or failure per text, in order; an engine that cannot be started
            fails each.
        """
        return await self._generate(texts, params, GeneratedText)

    async def stream_messages(
        self, messages: Sequence[Message], params: GenerateParams
    ) -> AsyncGenerator[str | GeneratedMessage, None]:
        """Continue one conversation, piece by piece.

        Closing the stream, or cancelling its reader, aborts the request.

        Args:
            messages: The conversation.
            params: Override the generator's own.

        Yields:
            Pieces of the text: whole characters, and nothing of a stop text. Then the
            finished result.

        Raises:
            RiggingError: If the engine cannot be started, or the request fails.
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
            RiggingError: If the engine cannot be started, or the request fails.
        """
        pieces = self._stream(text, params, GeneratedText)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    def __copy__(self) -> VLLMGenerator:
        copied = super().__copy__()
        # Two generators never share an engine: each could change what the other has started.
        copied._engine = self._engine.twin()
        copied._warned = set()
        return copied

    def __reduce__(self) -> tuple[object, ...]:
        if self._engine.is_borrowed:
            raise RiggingError(
                f"{PROVIDER}!{self.model} wraps an engine of yours (from_obj), which cannot be "
                f"pickled: pickle VLLMGenerator(model=…) instead, which starts its own"
            )
        return super().__reduce__()

    async def _generate(
        self,
        prompts: Iterable[str | tuple[Message, ...]],
        params: Sequence[GenerateParams],
        kind: type[ResultT],
    ) -> Sequence[ResultT | BaseException]:
        requests = [self._request(prompt, own) for prompt, own in zip(prompts, params, strict=True)]
        results = await self._engine.run(self._spec(), requests) if requests else []
        return [self._result(one, kind) if isinstance(one, Answer) else one for one in results]

    async def _stream(
        self, prompt: str | tuple[Message, ...], params: GenerateParams, kind: type[ResultT]
    ) -> AsyncGenerator[str | ResultT, None]:
        pieces = self._engine.stream(self._spec(), self._request(prompt, params))
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece if isinstance(piece, str) else self._result(piece, kind)

    def _request(self, prompt: str | tuple[Message, ...], params: GenerateParams) -> Request:
        merged = self._merged(self.params, params)
        if not merged.model_fields_set.isdisjoint(UNSUPPORTED):
            self._warn(name for name in UNSUPPORTED if getattr(merged, name) is not None)
        return Request.now(prompt, merged)

    def _result(self, answer: Answer, kind: type[ResultT]) -> ResultT:
        if answer.ignored:
            self._warn(answer.ignored)
        return result(answer.output, kind)

    @classmethod
    def _refuse_unknown(cls, name: str) -> None:
        if name in cls.model_fields:
            return
        known = engine_arguments()
        # Where vLLM is not to be read, or does not know the name, loading says so.
        if known and name not in known:
            more = (*cls.model_fields, *GenerateParams.model_fields)
            text = unknown_name(name, known.union(more))
            raise InvalidGeneratorError(f"{cls.__name__}: {text}", [(name, text)])

    def _spec(self) -> EngineSpec:
        """Return which engine the fields ask for; the same one until one of them changes."""
        fields = {**self.__dict__, **(self.model_extra or {})}
        del fields["params"]
        seen, spec = self._last
        if fields != seen:
            seen = snapshot(fields)
            arguments = {
                name: value
                for name, value in seen.items()
                if name not in _OURS and not (name in type(self).model_fields and value is None)
            }
            if self.api_key is not None:
                arguments["hf_token"] = self.api_key
            spec = EngineSpec(self.model, arguments, seen["lora_modules"])
            self._last = seen, spec
        return spec

    def _warn(self, names: Iterable[str]) -> None:
        """Say once what cannot be honoured."""
        for name in names:
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"{PROVIDER}!{self.model} does not take {name!r}: it is left out",
                    UnsupportedParameterWarning,
                    stacklevel=2,
                )
