"""Rules of a result: what it took, why it ended, which tools it calls, whole or streamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from rigging.params import GenerateParams
from rigging.result import GeneratedMessage, StopReason
from rigging.testing._contract._kinds import KINDS, Kind, usage_of
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner

__all__ = ["TOOL", "ResultRules"]

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
        result = runner.run(kind.ask(generator, PROMPTS[0], self.params()))
        usage = usage_of(result)
        assert usage.input_tokens > 0, "usage counts the tokens of the prompt: `input_tokens` is 0"
        assert usage.output_tokens > 0 or not str(result), (
            "usage counts the tokens of the answer: `output_tokens` is 0"
        )
        assert usage.total_tokens >= usage.input_tokens + usage.output_tokens, (
            f"total_tokens counts both: {usage!r}"
        )

    def test_the_stop_reason_is_told(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        result = runner.run(kind.ask(generator, PROMPTS[0], self.params(max_tokens=1)))
        assert result.stop_reason is not StopReason.unknown, (
            "a result says why it ended: `stop_reason` is not filled"
        )
        if self.supports_max_tokens and usage_of(result).output_tokens == 1:
            assert result.stop_reason is StopReason.length, (
                f"an answer that max_tokens cut short ended by 'length', not "
                f"{result.stop_reason.value!r}"
            )

    def test_pipelines_run_it(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        if kind.name == "messages":
            pipeline = generator.chat(PROMPTS[0]).with_(self.params())
            chats = runner.run(pipeline.run_many(2))
            roles = [chat.last.role for chat in chats]
            assert roles == ["assistant"] * 2, f"what a generator says, an assistant says: {roles}"
        else:
            completion = runner.run(generator.complete(PROMPTS[0]).with_(self.params()).run())
            assert completion.text == PROMPTS[0], "a completion keeps its prompt as it is"

    def test_a_stream_gives_what_a_call_gives(
        self, generator: Generator, kind: Kind, runner: Runner
    ) -> None:
        *pieces, last = runner.run(kind.stream(generator, PROMPTS[0], self.params()))
        assert isinstance(last, kind.result), (
            f"the last item of a stream is the finished {kind.result.__name__}, not {last!r}"
        )
        assert all(isinstance(piece, str) for piece in pieces), (
            f"all items of a stream but the last are text: {pieces!r}"
        )
        assert "".join(pieces) == str(last), (
            f"the pieces of a stream add up to its result: {pieces!r} and {str(last)!r}"
        )
        if not self.deterministic:
            return
        whole = runner.run(kind.ask(generator, PROMPTS[0], self.params()))
        assert str(last) == str(whole), (
            f"a stream gives what a call gives: {str(last)!r} and {str(whole)!r}"
        )
        assert last.stop_reason is whole.stop_reason, "a stream says, too, why it ended"
        assert usage_of(last).output_tokens == usage_of(whole).output_tokens, (
            "a stream counts its tokens as a call does"
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
            assert isinstance(result, GeneratedMessage)
            calls = result.message.tool_calls
            assert calls, f"with tool_choice='required', {how} gives `tool_calls`: {result!r}"
            assert calls[0].function.name == "look_up", f"{how} names the tool that was offered"
            assert isinstance(json.loads(calls[0].function.arguments), dict), (
                f"{how} gives the arguments as JSON: {calls[0].function.arguments!r}"
            )
            assert result.stop_reason is StopReason.tool_calls, (
                f"{how} that calls a tool ended by 'tool_calls', not {result.stop_reason.value!r}"
            )
