"""The contract of a generator, as a pytest suite that a provider inherits.

    class TestMine(GeneratorContract):
        identifier = "mine!some-model"

Each test checks one sentence of the contract and fails with that sentence. What a
backend cannot do is said by a class attribute, so that a test then checks the refusal
instead of being skipped. The tests make their own event loops and need no plugin of
pytest's.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pytest

from rigging.error import InvalidGeneratorError
from rigging.generator import Generator, get_generator
from rigging.message import Message
from rigging.params import GenerateParams
from rigging.registry import PLUGIN_API
from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

__all__ = ["GeneratorContract"]

_T = TypeVar("_T")

_KEY: Final = "sk-planted-4f9c1d7ab2"
_PROMPTS: Final = ("The first is red.", "Two: blue and green.", "Three is a crowd, they say.")
_ODD_PROMPTS: Final = ("", " ", "naïve 日本語 🦜\u200d\n\ttab", "word " * 64)
_CALLERS: Final = 20


class GeneratorContract:
    """What every generator promises. Inherit it, and name a generator.

    Give ``identifier``, or override the fixture `generator` (one that is slow to load comes
    from a session-scoped fixture of your own). What the backend cannot do is switched off:

    Attributes:
        identifier: Names the generator to test.
        supports_messages: It continues conversations. If False, it must say so.
        supports_texts: It continues texts. If False, it must say so.
        supports_max_tokens: It honours ``max_tokens``.
        deterministic: At temperature 0 equal prompts give equal answers.
    """

    identifier: ClassVar[str] = ""
    supports_messages: ClassVar[bool] = True
    supports_texts: ClassVar[bool] = True
    supports_max_tokens: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    @pytest.fixture
    def generator(self) -> Generator:
        """The generator under test."""
        if not self.identifier:
            pytest.fail("a contract test names its `identifier`, or overrides `generator`")
        return get_generator(self.identifier)

    # -- One result per input, in order --------------------------------------------------

    def test_every_input_has_its_result(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            results = _run(kind.call(_PROMPTS, [self._params()] * 3))
            assert len(results) == 3, "N requests give N results"
            for result in results:
                assert isinstance(result, kind.result), f"a result is a {kind.result.__name__}"

    def test_results_come_in_the_order_of_inputs(self, generator: Generator) -> None:
        if not self.deterministic:
            return
        for kind in self._kinds(generator):
            forwards = _run(kind.call(_PROMPTS, [self._params()] * 3))
            backwards = _run(kind.call(_PROMPTS[::-1], [self._params()] * 3))
            assert list(map(str, backwards)) == list(map(str, forwards))[::-1], (
                "results come in the order of inputs, and do not depend on their neighbours"
            )

    def test_an_empty_batch_gives_no_results(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            assert list(_run(kind.call([], []))) == [], "no requests give no results"

    def test_any_text_gives_a_result_or_that_items_error(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            results = _run(kind.call(_ODD_PROMPTS, [self._params()] * len(_ODD_PROMPTS)))
            assert len(results) == len(_ODD_PROMPTS), "N requests give N results"
            for result in results:
                assert isinstance(result, (kind.result, Exception)), (
                    "a text that the backend refuses is an exception in the list"
                )

    # -- Parameters ----------------------------------------------------------------------

    def test_params_are_per_item(self, generator: Generator) -> None:
        if not self.supports_max_tokens:
            return
        for kind in self._kinds(generator):
            limits = (1, 4, 2)
            params = [self._params(max_tokens=limit) for limit in limits]
            for result, limit in zip(_run(kind.call(_PROMPTS, params)), limits, strict=True):
                assert _usage(result).output_tokens <= limit, "each item has its own params"

    def test_params_of_a_call_override_the_generators(self, generator: Generator) -> None:
        if not self.supports_max_tokens:
            return
        for kind in self._kinds(generator):
            held = generator.params.merge_with(self._params(max_tokens=5))
            with _assigned(generator, "params", held):
                own, given = _run(
                    kind.call(_PROMPTS[:2], [GenerateParams(), GenerateParams(max_tokens=1)])
                )
            assert _usage(given).output_tokens <= 1, "what the call passes wins"
            assert _usage(own).output_tokens <= 5, "what the call leaves open, the generator says"

    def test_nothing_is_mutated(self, generator: Generator) -> None:
        params = [self._params(), self._params(max_tokens=2)]
        before = copy.deepcopy((dict(generator), params))
        for kind in self._kinds(generator):
            inputs = kind.inputs(_PROMPTS[:2])
            given = copy.deepcopy(inputs)
            _run(kind.generate(inputs, params))
            assert inputs == given, "a generator changes no input"
        assert (dict(generator), params) == before, "a generator changes no params, nor itself"

    # -- Results -------------------------------------------------------------------------

    def test_usage_and_stop_reason_are_filled(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            (result,) = _run(kind.call(_PROMPTS[:1], [self._params()]))
            usage = _usage(result)
            assert usage.input_tokens > 0, "usage counts the prompt"
            assert usage.total_tokens >= usage.input_tokens + usage.output_tokens
            assert result.stop_reason is not StopReason.unknown, "the stop reason is told"

    def test_a_stream_gives_what_a_call_gives(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            *pieces, last = _run(kind.streamed(_PROMPTS[0], self._params()))
            assert all(isinstance(piece, str) for piece in pieces), "pieces are text"
            assert isinstance(last, kind.result), "the last item is the finished result"
            assert "".join(pieces) == str(last), "the pieces add up to the result"
            if self.deterministic:
                (whole,) = _run(kind.call(_PROMPTS[:1], [self._params()]))
                assert str(last) == str(whole), "a stream gives what a call gives"

    # -- Callers -------------------------------------------------------------------------

    def test_many_callers_at_once(self, generator: Generator) -> None:
        for kind in self._kinds(generator):

            async def call(kind: _Kind = kind) -> list[Sequence[Any]]:
                calls = (kind.call(_PROMPTS[:1], [self._params()]) for _ in range(_CALLERS))
                return await asyncio.gather(*calls)

            for results in _run(call()):
                assert len(results) == 1, "callers at once each get their own results"
                assert isinstance(results[0], kind.result)

    def test_one_event_loop_after_another(self, generator: Generator) -> None:
        for kind in self._kinds(generator):
            for _ in range(2):
                (result,) = asyncio.run(kind.call(_PROMPTS[:1], [self._params()]))
                assert isinstance(result, kind.result), "state is kept per event loop"

    def test_what_it_cannot_do_it_says(self, generator: Generator) -> None:
        refused = [kind for kind in _kinds(generator) if not self._supports(kind)]
        for kind in refused:
            with pytest.raises(NotImplementedError, match=type(generator).__name__):
                _run(kind.call(_PROMPTS[:1], [self._params()]))

    def test_pipelines_run_it(self, generator: Generator) -> None:
        params = self._params()
        if self.supports_messages:
            chats = _run(generator.chat(_PROMPTS[0]).with_(params).run_many(2))
            assert [chat.last.role for chat in chats] == ["assistant"] * 2
        if self.supports_texts:
            completion = _run(generator.complete(_PROMPTS[0]).with_(params).run())
            assert completion.text == _PROMPTS[0], "the prompt stays as it is"

    # -- The generator as a value --------------------------------------------------------

    def test_load_and_unload_may_be_repeated_and_alternated(self, generator: Generator) -> None:
        for step in (generator.load, generator.load, generator.unload, generator.unload):
            assert step() is generator, "load() and unload() return the generator"
        for kind in self._kinds(generator):
            (result,) = _run(kind.call(_PROMPTS[:1], [self._params()]))
            assert isinstance(result, kind.result), "after unload() the next use loads again"

    def test_its_identifier_leads_back(self, generator: Generator) -> None:
        identifier = generator.to_identifier()
        again = get_generator(identifier)
        assert again == generator, "get_generator(g.to_identifier()) equals g but for the key"
        assert again.to_identifier() == identifier

    def test_it_pickles(self, generator: Generator) -> None:
        assert pickle.loads(pickle.dumps(generator)) == generator, (  # noqa: S301 (our own bytes)
            "a generator pickles, and is loaded again on the other side"
        )

    def test_its_key_is_never_shown(self, generator: Generator) -> None:
        with _assigned(generator, "api_key", _KEY):
            shown = [
                repr(generator),
                str(generator),
                repr(generator.model_dump()),
                generator.model_dump_json(),
                generator.to_identifier(),
                repr(generator.chat(_PROMPTS[0])),
                repr(pickle.dumps(generator)),
            ]
        for text in shown:
            assert _KEY not in text, "no key in a repr, dump, identifier or pickle"

    def test_an_unknown_field_is_refused(self, generator: Generator) -> None:
        with pytest.raises(InvalidGeneratorError, match="unknown field 'no_such_field'"):
            type(generator)(model=generator.model, no_such_field=1)  # type: ignore[call-arg]

    def test_it_is_written_for_this_plugin_api(self, generator: Generator) -> None:
        assert generator.plugin_api == PLUGIN_API, "plugin_api is that of rigging-core"

    # -- Helpers -------------------------------------------------------------------------

    def _supports(self, kind: _Kind) -> bool:
        wanted = kind.result is GeneratedMessage
        return self.supports_messages if wanted else self.supports_texts

    def _kinds(self, generator: Generator) -> list[_Kind]:
        return [kind for kind in _kinds(generator) if self._supports(kind)]

    def _params(self, *, max_tokens: int = 4) -> GenerateParams:
        """Short and repeatable answers, as far as the backend honours that."""
        return GenerateParams(
            max_tokens=max_tokens if self.supports_max_tokens else None,
            temperature=0 if self.deterministic else None,
        )


class _Kind:
    """One of the two things that a generator does: continue conversations, or texts."""

    def __init__(
        self,
        generate: Callable[[Any, Sequence[GenerateParams]], Coroutine[Any, Any, Sequence[Any]]],
        stream: Callable[[Any, GenerateParams], AsyncIterator[Any]],
        result: type[GeneratedMessage] | type[GeneratedText],
    ) -> None:
        self.generate = generate
        self.stream = stream
        self.result = result

    def inputs(self, prompts: Sequence[str]) -> list[Any]:
        if self.result is GeneratedMessage:
            return [[Message("user", prompt)] for prompt in prompts]
        return list(prompts)

    async def call(self, prompts: Sequence[str], params: Sequence[GenerateParams]) -> Sequence[Any]:
        return await self.generate(self.inputs(prompts), params)

    async def streamed(self, prompt: str, params: GenerateParams) -> list[Any]:
        (given,) = self.inputs([prompt])
        return [item async for item in self.stream(given, params)]


def _kinds(generator: Generator) -> list[_Kind]:
    return [
        _Kind(generator.generate_messages, generator.stream_messages, GeneratedMessage),
        _Kind(generator.generate_texts, generator.stream_texts, GeneratedText),
    ]


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(coroutine)


def _usage(result: object) -> Usage:
    assert isinstance(result, (GeneratedMessage, GeneratedText)), f"a request failed: {result!r}"
    assert result.usage is not None, "usage is filled"
    return result.usage


@contextlib.contextmanager
def _assigned(generator: Generator, name: str, value: object) -> Iterator[None]:
    before = getattr(generator, name)
    setattr(generator, name, value)
    try:
        yield
    finally:
        setattr(generator, name, before)
