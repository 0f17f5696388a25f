"""What a contract is about: the generator, what its backend can do, and how large the tests are."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pytest

from rigging._text import nearest
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

_OURS: Final = __name__.rpartition(".")[0]  # where the rules are
_NEARLY: Final = 0.8  # how alike a name and a setting's are, where a slip is likely

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

    unsupported_params: ClassVar[Collection[str]] = frozenset()
    unsupported_in_texts: ClassVar[Collection[str]] = frozenset()
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Those that are subjects were looked at when they were made.
        for base in (cls, *(base for base in cls.__mro__[1:] if not issubclass(base, Subject))):
            if base is not object:
                _check_settings(base)
                _check_expected_failures(base, cls)
        if not (cls.supports_messages or cls.supports_texts):
            raise TypeError(
                f"{cls.__name__} supports neither messages nor texts: a generator continues one "
                f"of them, so leave supports_messages or supports_texts on"
            )

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
        in_texts = self.unsupported_in_texts if kind.name == "texts" else ()
        return frozenset({*self.unsupported_params, *in_texts, *switched_off})


def _check_settings(cls: type) -> None:
    """Refuse settings that are nearly spelt like one of the contract's, and unknown parameters."""
    settings = Subject.__annotations__
    for name, value in vars(cls).items():
        # Fixtures and helpers have whatever names they like.
        is_other = name.startswith("_") or callable(value) or hasattr(value, "__get__")
        # A word that begins as a switch does is refused in any case.
        if is_other or name.startswith("supports_") or hasattr(Subject, name):
            continue
        for meant in difflib.get_close_matches(name, settings, n=1, cutoff=_NEARLY):
            raise TypeError(f"{cls.__name__}.{name} sets nothing: did you mean {meant!r}?")
    known = GenerateParams.model_fields.keys() - {"extra"}
    for setting in ("unsupported_params", "unsupported_in_texts"):
        named = vars(cls).get(setting, ())
        if isinstance(named, str) or not isinstance(named, Collection):
            raise TypeError(
                f"{cls.__name__}.{setting} is a set of names of parameters, not {named!r}"
            )
        for name in named:
            if name not in known:
                near = nearest(str(name), known)
                hint = (
                    f"did you mean {near!r}?" if near else f"there are {', '.join(sorted(known))}"
                )
                raise TypeError(
                    f"{cls.__name__}.{setting} names {name!r}, which is no parameter that can be "
                    f"warned about: {hint}"
                )


def _check_expected_failures(cls: type, contract: type) -> None:
    """Refuse a test that is expected to fail at times only; let it fail once it is kept."""
    for name, test in vars(cls).items():
        rules = (base for base in contract.__mro__ if base.__module__.startswith(_OURS))
        if not name.startswith("test_") or not any(name in vars(base) for base in rules):
            continue
        marks = getattr(test, "pytestmark", [])
        for place, mark in enumerate(marks):
            if mark.name != "xfail":
                continue
            if mark.args or "condition" in mark.kwargs:
                raise TypeError(
                    f"{cls.__name__}.{name} is expected to fail on a condition, and would test "
                    f"nothing without it: write pytest.mark.xfail(reason=…), and make the "
                    f"override itself depend on that"
                )
            # Else one that does nothing would pass.
            marks[place] = pytest.mark.xfail(**{"strict": True, **mark.kwargs}).mark
