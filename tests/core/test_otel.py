"""Spans and metrics, in the real SDK's memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import rigging as rg
from rigging.error import RateLimitError, ResponseError
from rigging.otel import OpenTelemetry
from rigging.plugins import manager
from rigging.result import Usage
from rigging.testing import EchoGenerator

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


class Answering(EchoGenerator):
    """Answers as a service does: with a name, a model and usage."""

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        # What an instrumented HTTP client would do.
        with trace.get_tracer("http", tracer_provider=PROVIDERS[-1]).start_as_current_span("POST"):
            pass
        if messages[0][-1].text == "fail":
            return [RateLimitError("no", status=429)]
        extra = {"id": "chatcmpl-1", "model": "tiny-2024"}
        usage = Usage(input_tokens=3, output_tokens=5)
        return [
            rg.GeneratedMessage.from_text("an answer", "length", usage=usage, extra=extra)
            for _ in messages
        ]


PROVIDERS: list[TracerProvider] = []


class Telemetry:
    """A real SDK that keeps what it gets."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.spans_to = TracerProvider()
        self.spans_to.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.metrics_to = MeterProvider([self._reader])

    def plugin(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(self.spans_to, self.metrics_to, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]

    def schemas(self) -> set[str | None]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            scope.scope.schema_url
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
        }


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    monkeypatch.delenv(CAPTURE, raising=False)
    manager.reset()
    made = Telemetry()
    PROVIDERS.append(made.spans_to)
    with rg.register_generator("answering", Answering):
        yield made
    PROVIDERS.clear()
    made.spans_to.shutdown()
    made.metrics_to.shutdown()
    manager.reset()


def test_a_request_is_a_span_of_a_client(telemetry: Telemetry) -> None:
    with manager.register(telemetry.plugin()):
        generator = rg.get_generator("answering!tiny,temperature=0.5,max_tokens=9,seed=7")
        generator.chat("the question").run_sync()

    (span,) = telemetry.spans("chat tiny")
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "answering",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 7,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "tiny-2024",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_failure_is_a_span_with_the_errors_type(telemetry: Telemetry) -> None:
    with manager.register(telemetry.plugin()):
        Answering(model="tiny").chat("fail").run_sync(on_failed="include")

    (span,) = telemetry.spans("chat tiny")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "RateLimitError"
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert (point.attributes or {})["error.type"] == "RateLimitError"
    assert telemetry.points("gen_ai.client.token.usage") == []


def test_spans_have_the_callers_for_a_parent_and_the_clients_for_a_child(
    telemetry: Telemetry,
) -> None:
    tracer = telemetry.spans_to.get_tracer("mine")

    async def main() -> None:
        with tracer.start_as_current_span("mine"):
            await Answering(model="tiny").chat().run_batch(["a", "b"])
            assert trace.get_current_span().get_span_context() == mine()

    def mine() -> Any:
        return trace.get_current_span().get_span_context()

    class Alone(Answering):
        batch_size = 1

    with manager.register(telemetry.plugin()):
        asyncio.run(main())
        with tracer.start_as_current_span("alone"):
            Alone(model="single").chat("a").run_sync()

    (parent,) = telemetry.spans("mine")
    spans = telemetry.spans("chat tiny")
    assert [span.parent.span_id for span in spans if span.parent] == [parent.context.span_id] * 2
    (single,) = telemetry.spans("chat single")
    assert single.context.span_id in {
        span.parent.span_id for span in telemetry.spans("POST") if span.parent
    }


def test_durations_and_tokens_are_counted(telemetry: Telemetry) -> None:
    with manager.register(telemetry.plugin()):
        Answering(model="tiny").chat().run_batch_sync(["a", "b", "c"])
        list(Answering(model="tiny").chat("a").stream_sync())

    (duration,) = telemetry.points("gen_ai.client.operation.duration")
    assert duration.count == 4
    assert duration.explicit_bounds[:2] == (0.01, 0.02)
    (first,) = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    assert first.count == 1
    tokens = {
        (point.attributes or {})["gen_ai.token.type"]: (point.count, point.sum)
        for point in telemetry.points("gen_ai.client.token.usage")
    }
    assert tokens == {"input": (4, 12), "output": (4, 20)}


@pytest.mark.parametrize(
    ("option", "variable", "captured"),
    [
        (None, None, False),
        (None, "true", True),
        (True, None, True),
        (False, "true", False),
    ],
)
def test_texts_are_recorded_only_where_that_is_asked_for(
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    option: bool | None,
    variable: str | None,
    captured: bool,
) -> None:
    if variable is not None:
        monkeypatch.setenv(CAPTURE, variable)
    with manager.register(telemetry.plugin(capture_content=option)):
        Answering(model="tiny").chat([rg.Message("user", ["the question"])]).run_sync()
        EchoGenerator(model="text").complete("a text").run_sync()

    (span,) = telemetry.spans("chat tiny")
    (text,) = telemetry.spans("text_completion text")
    if not captured:
        assert "the question" not in span.to_json()
        assert "an answer" not in span.to_json()
        assert "a text" not in text.to_json()
        return
    attributes = dict(span.attributes or {})
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "the question"}]}
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "an answer"}],
            "finish_reason": "length",
        }
    ]
    assert "a text" in str((text.attributes or {})["gen_ai.input.messages"])


def test_a_plugin_that_comes_late_leaves_requests_alone_that_are_under_way(
    telemetry: Telemetry,
) -> None:
    plugin = telemetry.plugin()

    class Late(Answering):
        async def generate_messages(self, messages: Any, params: Any) -> Any:
            manager.register(plugin)
            return await super().generate_messages(messages, params)

    Late(model="late").chat("a").run_sync()

    assert telemetry.spans("chat late") == []


def test_two_of_them_leave_the_callers_context_as_it_was(telemetry: Telemetry) -> None:
    other = Telemetry()

    async def main() -> trace.Span:
        await Answering(model="tiny").chat("a").run()
        return trace.get_current_span()

    with manager.register(telemetry.plugin()), manager.register(other.plugin()):
        current = asyncio.run(main())

    assert current is trace.INVALID_SPAN
    assert len(telemetry.spans("chat tiny")) == len(other.spans("chat tiny")) == 1
    other.spans_to.shutdown()
    other.metrics_to.shutdown()


class Streaming(Answering):
    """Gives two pieces, and a result if that is asked for."""

    async def stream_messages(
        self, messages: Sequence[rg.Message], params: rg.GenerateParams
    ) -> AsyncGenerator[str | rg.GeneratedMessage, None]:
        yield "an "
        yield "answer"
        if messages[-1].text != "no result":
            yield rg.GeneratedMessage.from_text("an answer")


def test_a_stream_that_is_left_early_is_no_error(telemetry: Telemetry) -> None:
    async def main() -> None:
        stream = Streaming(model="left").chat("a").stream()
        async with contextlib.aclosing(stream):
            await anext(stream)

    with manager.register(telemetry.plugin()):
        asyncio.run(main())

    (span,) = telemetry.spans("chat left")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})


def test_the_span_of_a_stream_without_its_result_ends_as_an_error(telemetry: Telemetry) -> None:
    with manager.register(telemetry.plugin()), pytest.raises(ResponseError, match="its result"):
        list(Streaming(model="cut").chat("no result").stream_sync())

    (span,) = telemetry.spans("chat cut")
    assert (span.attributes or {})["error.type"] == "ResponseError"


def test_calls_of_tools_and_their_answers_are_recorded_as_such(telemetry: Telemetry) -> None:
    call = rg.ToolCall(id="call-1", function=rg.FunctionCall(name="time", arguments="{}"))

    class Calling(Answering):
        async def generate_messages(self, messages: Any, params: Any) -> Any:
            asked = rg.Message("assistant", "", tool_calls=[call])
            return [rg.GeneratedMessage(message=asked, stop_reason=rg.StopReason.tool_calls)]

    with manager.register(telemetry.plugin(capture_content=True)):
        answered = rg.Message("tool", "noon", tool_call_id="call-1")
        Calling(model="tools").chat([rg.Message("user", "when?"), answered]).run_sync()

    (span,) = telemetry.spans("chat tools")
    attributes = dict(span.attributes or {})
    assert json.loads(str(attributes["gen_ai.input.messages"]))[1] == {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "call-1", "response": "noon"}],
    }
    (came,) = json.loads(str(attributes["gen_ai.output.messages"]))
    assert came["finish_reason"] == "tool_call"
    assert came["parts"] == [
        {"type": "tool_call", "id": "call-1", "name": "time", "arguments": "{}"}
    ]


def test_spans_and_metrics_name_the_version_of_their_conventions(telemetry: Telemetry) -> None:
    with manager.register(telemetry.plugin()):
        Answering(model="tiny").chat("a").run_sync()

    (span,) = telemetry.spans("chat tiny")
    schema = "https://opentelemetry.io/schemas/1.41.0"
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == schema
    assert telemetry.schemas() == {schema}
