"""Rules of a result: what it took, why it ended, which tools it calls, whole or streamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from rigging.error import RiggingError
from rigging.params import GenerateParams
from rigging.result import GeneratedMessage, StopReason
from rigging.testing._contract._kinds import KINDS, WAYS, Kind, raised, usage_of
from rigging.testing._contract._samples import ODD_TEXTS
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner

__all__ = ["TOOL", "ResultRules"]

_T = TypeVar("_T")

TOOL: Final[Mapping[str, Any]] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {
            "type": "object",
            "properties": {"term": {"type": "string"}},
            "required": ["term"],
        },
    },
}


class ResultRules(Subject):
    """A result says all that there is to know of a request."""

    def test_usage_is_counted(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        params = self.params()
        for way in WAYS:
            result = runner.run(kind.answer(way, generator, PROMPTS[0], params))
            usage = usage_of(result)
            assert usage.input_tokens > 0, (
                f"usage counts the tokens of the prompt: `input_tokens` of a {way} is 0"
            )
            assert usage.output_tokens > 0 or not str(result), (
                f"usage counts the tokens of the answer: `output_tokens` of a {way} is 0"
            )
            assert usage.total_tokens >= usage.input_tokens + usage.output_tokens, (
                f"total_tokens counts both: {usage!r} of a {way}"
            )
        alone = [usage_of(runner.run(kind.ask(generator, p, params))) for p in PROMPTS]
        batch = map(usage_of, runner.run(kind.call(generator, PROMPTS, [params] * len(PROMPTS))))
        # In no order: another rule is about that.
        counts = [sorted(usage.input_tokens for usage in usages) for usages in (alone, batch)]
        assert counts[0] == counts[1], (
            f"usage counts the tokens of each prompt, and no padding: {counts[0]} alone, and "
            f"{counts[1]} in one batch"
        )

    def test_the_stop_reason_is_told(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        for way in WAYS:
            asked = kind.answer(way, generator, PROMPTS[0], self.params(max_tokens=1))
            result = runner.run(asked)
            assert result.stop_reason is not StopReason.unknown, (
                f"a result says why it ended: `stop_reason` of a {way} is not filled"
            )
            if self.supports_max_tokens and usage_of(result).output_tokens == 1:
                assert result.stop_reason is StopReason.length, (
                    f"an answer that max_tokens cut short ended by 'length', not "
                    f"{result.stop_reason.value!r} (a {way})"
                )

    def test_pipelines_run_it(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        chats = kind.name == "messages"
        start = generator.chat if chats else generator.complete
        pipeline: Any = start(PROMPTS[0]).with_(self.params())
        try:
            *_, streamed = runner.run(_all_of(pipeline.stream()))
        except Exception as error:  # noqa: BLE001 (reported as a broken rule)
            pytest.fail(f"a pipeline streams it, too: stream() raised {raised(error)!r}")
        items = [*runner.run(pipeline.run_many(2)), streamed]
        if chats:
            roles = [chat.last.role for chat in items]
            assert roles == ["assistant"] * 3, f"what a generator says, an assistant says: {roles}"
        else:
            assert all(completion.text == PROMPTS[0] for completion in items), (
                f"a completion keeps its prompt as it is: {PROMPTS[0]!r} became "
                f"{[completion.text for completion in items]}"
            )

    @pytest.mark.parametrize("prompt", [PROMPTS[0], ODD_TEXTS[2]], ids=["plain", "odd"])
    def test_a_stream_gives_what_a_call_gives(
        self, generator: Generator, kind: Kind, prompt: str, runner: Runner
    ) -> None:
        params = self.params(max_tokens=12)
        try:
            *pieces, last = runner.run(kind.stream(generator, prompt, params))
        except RiggingError:
            if prompt in PROMPTS:
                raise
            return  # an odd text may be refused
        assert all(isinstance(piece, str) for piece in pieces), (
            f"all items of a stream but the last are text: {pieces!r}"
        )
        assert "".join(pieces) == str(last), (
            f"the pieces of a stream add up to its result: {pieces!r} and {str(last)!r}"
        )
        whole = runner.run(kind.ask(generator, prompt, params))
        counts = [usage_of(result).input_tokens for result in (last, whole)]
        assert counts[0] == counts[1], (
            f"a stream counts the tokens of its prompt as a call does: {counts[0]}, not {counts[1]}"
        )
        if not self.deterministic:
            return
        assert str(last) == str(whole), (
            f"a stream gives what a call gives: {str(last)!r} and {str(whole)!r}"
        )
        assert last.stop_reason is whole.stop_reason, (
            f"a stream ends for the reason that a call does: {last.stop_reason.value!r}, not "
            f"{whole.stop_reason.value!r}"
        )
        counts = [usage_of(result).output_tokens for result in (last, whole)]
        assert counts[0] == counts[1], (
            f"a stream counts the tokens of its answer as a call does: {counts[0]}, not {counts[1]}"
        )

    @needs("supports_streaming")
    def test_a_stream_comes_in_pieces(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        items = runner.run(kind.stream(generator, PROMPTS[0], self.params(max_tokens=12)))
        pieces = [piece for piece in items[:-1] if piece]
        assert len(pieces) > 1, (
            f"a stream yields text as it comes: the whole answer came as {pieces!r} "
            f"(or say `supports_streaming = False`)"
        )

    @needs("supports_tools", "supports_messages")
    def test_a_tool_call_comes_back_as_one(self, generator: Generator, runner: Runner) -> None:
        kind = KINDS[0]
        required = GenerateParams(tools=[dict(TOOL)], tool_choice="required", max_tokens=256)
        whole = runner.run(kind.ask(generator, "What is a quark? Look it up.", required))
        streamed = runner.run(kind.stream(generator, "What is a quark? Look it up.", required))[-1]
        for how, result in (("a call", whole), ("a stream", streamed)):
            assert isinstance(result, GeneratedMessage)  # for the type checker
            calls = result.message.tool_calls
            assert calls, f"with tool_choice='required', {how} gives `tool_calls`: {result!r}"
            assert calls[0].function.name == "look_up", f"{how} names the tool that was offered"
            assert _is_object(calls[0].function.arguments), (
                f"{how} gives the arguments as JSON: {calls[0].function.arguments!r}"
            )
            assert result.stop_reason is StopReason.tool_calls, (
                f"{how} that calls a tool ended by 'tool_calls', not {result.stop_reason.value!r}"
            )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


async def _all_of(stream: AsyncIterator[_T]) -> list[_T]:
    return [item async for item in stream]
