"""The tiny model, transformers' own view of it for comparison, and tests that need a GPU."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from rigging_transformers import TransformersGenerator
from rigging_transformers._loaded import Loaded
from tests.support.gpu import pytest_runtest_setup, pytest_terminal_summary
from tests.support.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path


__all__ = ["pytest_runtest_setup", "pytest_terminal_summary"]  # hooks: pytest finds them here


class Reference(NamedTuple):
    """The tiny model as transformers itself loads it: what ours is compared with."""

    model: Any
    tokenizer: Any

    def new_tokens(self, prompt: str, **options: Any) -> list[int]:
        """Generate for one prompt by a plain call of ``generate``."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        output = self.model.generate(**inputs, **{"do_sample": False, **options})
        return list(output[0, inputs["input_ids"].shape[1] :].tolist())

    def prefilled(self, ids: Any) -> Any:
        """Read rows of equal length, shape ``(rows, length)``, and return transformers' cache."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        self.model(ids, **{self.cache_name: cache})
        return cache

    @property
    def cache_name(self) -> str:
        return Loaded(self.model, self.tokenizer, "tiny").cache_name

    def text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def greedy(alone: Reference, prompt: str, tokens: int = 24) -> str:
    """Return what a model says to one prompt by itself."""
    return alone.text(alone.new_tokens(prompt, max_new_tokens=tokens))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def reference(tiny_model: Path) -> Reference:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return Reference(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        AutoTokenizer.from_pretrained(tiny_model),
    )


@pytest.fixture
def generator(tiny_model: Path) -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator(model=str(tiny_model))
    yield generator
    generator.unload()


@pytest.fixture
def borrowing(reference: Reference) -> TransformersGenerator:
    """A generator around the reference's own model, which costs no loading."""
    return TransformersGenerator.from_obj(reference.model, reference.tokenizer)


class Steps:
    """Counts the model's forward passes, and calls ``then`` after each."""

    def __init__(self) -> None:
        self.count = 0
        self.then: Callable[[int], object] = lambda _: None

    def __call__(self, *_: Any) -> None:
        self.count += 1
        self.then(self.count)

    async def reach(self, count: int) -> None:
        """Wait for so many forward passes."""
        while self.count < count:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.001)


async def come_at(
    model: Any, steps: Steps, count: int, come: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    """Ask within a certain step of those that run, which wait until it is asked."""
    began, came = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        if steps.count == count:
            began.set()
            assert came.wait(60)

    with model.register_forward_pre_hook(wait):
        # Before that, the engine might still let who asks join.
        while not began.is_set():  # noqa: ASYNC110 (another thread sets it)
            await asyncio.sleep(0.001)
        task = asyncio.create_task(come())
        await asyncio.sleep(0.05)  # the engine finds it in its inbox
        came.set()
        return await task


@pytest.fixture
def steps(reference: Reference) -> Iterator[Steps]:
    steps = Steps()
    with reference.model.register_forward_hook(steps):
        yield steps


@pytest.fixture
def widths(reference: Reference) -> Iterator[list[int]]:
    """The rows of each forward pass of the model."""
    widths: list[int] = []
    with reference.model.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    ):
        yield widths
