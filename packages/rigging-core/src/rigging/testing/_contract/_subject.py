"""What a contract is about: the generator, what its backend can do, and how large the tests are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pytest

from rigging.generator import Generator, get_generator
from rigging.params import GenerateParams
from rigging.testing._contract._kinds import KINDS, Kind
from rigging.testing._contract._runner import Runner
from rigging.testing._situations import Fault, SlowRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["PROMPTS", "Subject", "capabilities_of", "needs"]

_TestT = TypeVar("_TestT", bound="Callable[..., Any]")

PROMPTS: Final = (
    "The first is red.",
    "Two: blue and green.",
    "Three is a crowd, they say.",
    "Four of them, and one more.",
)

_CAPABILITIES: Final = "__rigging_capabilities__"

#: Top modules of libraries that no program should pay for before it needs them.
_HEAVY: Final = frozenset(
    {
        "accelerate",
        "aiohttp",
        "anthropic",
        "boto3",
        "cohere",
        "google",
        "grpc",
        "httpx",
        "huggingface_hub",
        "jax",
        "langchain",
        "litellm",
        "llama_cpp",
        "mistralai",
        "mlx",
        "numpy",
        "ollama",
        "onnxruntime",
        "openai",
        "pandas",
        "ray",
        "requests",
        "rich",
        "scipy",
        "sentencepiece",
        "tensorflow",
        "tiktoken",
        "tokenizers",
        "torch",
        "transformers",
        "vllm",
    }
)


def needs(*capabilities: str) -> Callable[[_TestT], _TestT]:
    """Say which attributes of the class must be true for a test to apply."""

    def mark(test: _TestT) -> _TestT:
        setattr(test, _CAPABILITIES, capabilities)
        return test

    return mark


def capabilities_of(test: object) -> tuple[str, ...]:
    """Return what a test of the contract needs."""
    found: tuple[str, ...] = getattr(test, _CAPABILITIES, ())
    return found


class Subject:
    """What the rules have in common. `GeneratorContract` describes the attributes."""

    identifier: ClassVar[str] = ""

    supports_messages: ClassVar[bool] = True
    supports_texts: ClassVar[bool] = True
    supports_streaming: ClassVar[bool] = True
    supports_tools: ClassVar[bool] = False
    supports_max_tokens: ClassVar[bool] = True
    supports_stop: ClassVar[bool] = True
    supports_seed: ClassVar[bool] = True
    supports_timeout: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    takes_time: ClassVar[bool] = True
    can_fail: ClassVar[bool] = True
    answers_when_spawned: ClassVar[bool] = True

    unsupported_params: ClassVar[frozenset[str]] = frozenset()
    unsupported_in_texts: ClassVar[frozenset[str]] = frozenset()
    field_values: ClassVar[Mapping[str, Any]] = {}
    unwritten_fields: ClassVar[frozenset[str]] = frozenset()
    heavy_modules: ClassVar[frozenset[str]] = _HEAVY

    callers: ClassVar[int] = 200
    long_text: ClassVar[int] = 50_000
    max_stall_s: ClassVar[float] = 0.25
    patience_s: ClassVar[float] = 120.0
    max_import_ratio: ClassVar[float] = 3.0

    #: Worked out from the others: one kind of request is refused.
    refuses_a_kind: ClassVar[bool] = False

    @pytest.fixture
    def generator(self) -> Generator:
        """The generator under test."""
        if not self.identifier:
            pytest.fail("a contract test names its `identifier`, or overrides `generator`")
        return get_generator(self.identifier)

    @pytest.fixture
    def faults(self) -> Sequence[Fault]:
        """Ways to make a request fail, at least one."""
        pytest.fail(
            "a contract test shows how requests fail: override the fixture `faults`, so that it "
            "returns at least one rigging.testing.Fault (or say `can_fail = False`)"
        )

    @pytest.fixture
    def slow(self) -> SlowRequest:
        """A request that lasts. As it is, an answer of very many tokens."""
        return SlowRequest()

    @pytest.fixture
    def runner(self) -> Iterator[Runner]:
        """One event loop for all that a test awaits."""
        with Runner(5 * self.patience_s) as runner:
            yield runner

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes ``kind`` once for each kind of request that is supported."""
        if "kind" in metafunc.fixturenames:
            kinds = self.kinds()
            metafunc.parametrize("kind", kinds, ids=[kind.name for kind in kinds])

    @classmethod
    def supports(cls, kind: Kind) -> bool:
        """Tell whether the backend takes this kind of request."""
        supported: bool = getattr(cls, f"supports_{kind.name}")
        return supported

    @classmethod
    def kinds(cls) -> list[Kind]:
        """Return the kinds of request that the backend takes."""
        return [kind for kind in KINDS if cls.supports(kind)]

    def params(self, *, max_tokens: int = 4, **others: Any) -> GenerateParams:
        """Ask for short and repeatable answers, as far as the backend honours that."""
        short = {"max_tokens": max_tokens} if self.supports_max_tokens else {}
        repeatable = {"temperature": 0.0} if self.deterministic else {}
        return GenerateParams(**{**short, **repeatable, **others})

    def unsupported(self, kind: Kind) -> frozenset[str]:
        """Return the parameters that have to be warned about."""
        flags = ("max_tokens", "stop", "seed", "timeout")
        switched_off = {name for name in flags if not getattr(self, f"supports_{name}")}
        in_texts = self.unsupported_in_texts if kind.name == "texts" else frozenset()
        return self.unsupported_params | in_texts | switched_off
