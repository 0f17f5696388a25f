"""The generator: conversations and texts, continued by a model that vLLM runs here."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr

from rigging.error import InvalidGeneratorError, RiggingError, UnsupportedParameterWarning
from rigging.generator import Generator
from rigging.params import GenerateParams
from rigging.result import GeneratedMessage, GeneratedText
from rigging_vllm._batch import Answer, Request
from rigging_vllm._engine import Engine
from rigging_vllm._results import facts, text_of
from rigging_vllm._sampling import UNSUPPORTED
from rigging_vllm._source import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rigging.message import Message
    from rigging_vllm._batch import Result

__all__ = ["VLLMGenerator"]

_OURS: Final = frozenset({"api_key", "params"})
_ENGINE_METHODS: Final = ("enqueue", "enqueue_chat", "get_default_sampling_params")


class VLLMGenerator(Generator):
    """A model that vLLM runs on this machine.

    ``model`` is a hub id, a directory, or a ``.gguf`` file. vLLM is imported and the engine
    started by the first request, or by `load`; the fields are vLLM's engine arguments of
    the same name, and None leaves one to vLLM. All requests of a call are one batch for
    the engine; calls run one after the other.

    Conversations go through the model's chat template. What ``extra`` holds goes to
    vLLM's ``SamplingParams`` under its own name. Without ``max_tokens`` an answer may fill
    the context. A model's calls of tools come back as the text that it wrote.

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
        revision: Branch, tag or commit of a model on the hub.

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

    plugin_api: ClassVar[int] = 1
    batch_size: ClassVar[int | None] = None

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    quantization: str | None = None
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    enforce_eager: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = Field(default=1, ge=1)
    pipeline_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    revision: str | None = None

    _engine: Engine = PrivateAttr(default_factory=Engine)
    _warned: set[str] = PrivateAttr(default_factory=set)

    @classmethod
    def from_obj(
        cls, model: str, llm: Any, *, params: GenerateParams | None = None
    ) -> VLLMGenerator:
        """Wrap an engine that exists already.

        The engine stays the caller's: `unload` leaves it alone. While a request runs,
        nobody else may use it. Such a generator cannot be pickled, since an engine cannot.

        Args:
            model: Its name, for the identifier and for errors.
            llm: A ``vllm.LLM``.
            params: Generation parameters that hold unless a call overrides them.

        Raises:
            InvalidGeneratorError: If ``llm`` is no ``vllm.LLM``.
        """
        if isinstance(llm, type) or not all(hasattr(llm, name) for name in _ENGINE_METHODS):
            raise InvalidGeneratorError(
                f"from_obj() takes a vllm.LLM, got {type(llm).__module__}.{type(llm).__name__}"
            )
        generator = cls(model=model, params=params or GenerateParams())
        generator._engine = Engine(llm)
        return generator

    def load(self) -> VLLMGenerator:
        """Start the engine now; blocks until it runs. Does nothing if it does.

        Raises:
            RiggingError: As the class says.
        """
        self._engine.load(self._engine_arguments())
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
            One result per conversation, in order; an error is that item's failure.

        Raises:
            RiggingError: If the engine cannot be started.
        """
        results = await self._run(map(tuple, messages), params)
        return [
            GeneratedMessage.from_text(text_of(result.output), **facts(result.output))
            if isinstance(result, Answer)
            else result
            for result in results
        ]

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[GenerateParams]
    ) -> Sequence[GeneratedText | BaseException]:
        """Continue each text.

        Args:
            texts: Prompts, shape ``(batch,)``.
            params: Override the generator's own; one per text.

        Returns:
            One result per text, in order; an error is that item's failure.

        Raises:
            RiggingError: If the engine cannot be started.
        """
        results = await self._run(texts, params)
        return [
            GeneratedText.from_text(text_of(result.output), **facts(result.output))
            if isinstance(result, Answer)
            else result
            for result in results
        ]

    def __reduce__(self) -> tuple[object, ...]:
        if self._engine.is_borrowed:
            raise RiggingError(
                f"{PROVIDER}!{self.model} wraps an engine of yours (from_obj), which cannot be "
                f"pickled: pickle VLLMGenerator(model=…) instead, which starts its own"
            )
        return super().__reduce__()

    async def _run(
        self, prompts: Iterable[str | tuple[Message, ...]], params: Sequence[GenerateParams]
    ) -> Sequence[Result]:
        now = time.monotonic()
        requests = []
        for prompt, own in zip(prompts, params, strict=True):
            merged = self.params.merge_with(own)
            deadline = None if merged.timeout is None else now + merged.timeout
            requests.append(Request(prompt, merged, deadline))
        if not requests:
            return []
        self._warn(
            name
            for name in UNSUPPORTED
            if any(getattr(request.params, name) is not None for request in requests)
        )
        results = await self._engine.run(self._engine_arguments(), requests)
        self._warn(
            name for result in results if isinstance(result, Answer) for name in result.ignored
        )
        return results

    def _engine_arguments(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in type(self).model_fields.keys() - _OURS}
        return {name: value for name, value in values.items() if value is not None}

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
