"""OpenTelemetry: a span for each request, and metrics, by the conventions for generative AI.

    import rigging as rg
    from rigging.otel import OpenTelemetry

    rg.plugins.manager.register(OpenTelemetry())

Needs the extra: ``pip install 'rigging-core[otel]'``. Where they go is for the program's
OpenTelemetry SDK to say; without one, nothing is recorded.

Source:
    OpenTelemetry, "Semantic conventions for generative client AI spans" and "… AI metrics",
    version 1.41.0, the last before they moved to a repository of their own.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import context, metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from rigging._version import __version__
from rigging.message import Message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from rigging.events import RequestFailed, RequestFinished, RequestStarted

__all__ = ["OpenTelemetry"]

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.41.0"
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

# Ours -> theirs.
_OPERATIONS: Final[Mapping[str, str]] = {"chat": "chat", "completion": "text_completion"}
_SAMPLING: Final[Mapping[str, str]] = {
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "max_tokens": "gen_ai.request.max_tokens",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "temperature": "gen_ai.request.temperature",
    "top_k": "gen_ai.request.top_k",
    "top_p": "gen_ai.request.top_p",
}
_REASONS: Final[Mapping[str, str]] = {"tool_calls": "tool_call"}  # in messages

# Bounds of histograms that the conventions ask for.
_SECONDS: Final = [0.01 * 2**power for power in range(14)]
_TOKENS: Final = [4**power for power in range(14)]


class _Open(NamedTuple):
    """The span of a request that is under way, and what makes it current no more."""

    span: trace.Span
    token: Token[context.Context] | None


class OpenTelemetry:
    """A plugin that makes spans and metrics of requests.

    A span is the child of the one that is current where the run was started, and but for
    streams it is current while the request is under way. Where one call carries several requests,
    what that call does (an HTTP client's span) is a child of the first one's span.

    A span holds provider, model, operation, sampling parameters, usage, finish reason and error
    type. Texts are recorded only where that is asked for; stop texts are not. A stream that its
    reader has left early is no error.

    Args:
        tracer_provider: Where spans go; None is the program's.
        meter_provider: Where metrics go; None is the program's.
        capture_content: Whether spans hold what was sent and what came back. None leaves it to
            the variable ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        capture_content: bool | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("rigging", __version__, tracer_provider, _SCHEMA)
        meter = metrics.get_meter("rigging", __version__, meter_provider, _SCHEMA)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="How long a request took",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_piece = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="How long a stream took until its first piece",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens taken",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        if capture_content is None:
            capture_content = os.environ.get(_CAPTURE, "").strip().lower() in {"1", "true"}
        if capture_content:
            # Not a method: who has it is given texts.
            self.rigging_request_content = self._record_content
        self._spans: dict[int, _Open] = {}  # of the requests that are under way

    def rigging_request_started(self, event: RequestStarted) -> None:
        """Start a span."""
        attributes = _facts(event)
        sampling = {_SAMPLING[name]: value for name, value in event.sampling.items()}
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {event.origin.model}",
            kind=SpanKind.CLIENT,
            attributes={**attributes, **sampling},
        )
        # A stream's reader may take each piece in another context.
        token = None if event.streams else context.attach(trace.set_span_in_context(span))
        self._spans[event.id] = _Open(span, token)

    def rigging_request_finished(self, event: RequestFinished) -> None:
        """End the span, and count."""
        common = _facts(event.request)
        if event.response_model is not None:
            common["gen_ai.response.model"] = event.response_model
        self._duration.record(event.duration_s, common)
        if event.first_piece_s is not None:
            self._first_piece.record(event.first_piece_s, common)
        more: dict[str, Any] = {"gen_ai.response.finish_reasons": [str(event.stop_reason)]}
        if event.response_id is not None:
            more["gen_ai.response.id"] = event.response_id
        if event.usage is not None:
            counts = {"input": event.usage.input_tokens, "output": event.usage.output_tokens}
            for kind, count in counts.items():
                self._tokens.record(count, {**common, "gen_ai.token.type": kind})
                more[f"gen_ai.usage.{kind}_tokens"] = count
        self._end(event.request, {**common, **more})

    def rigging_request_failed(self, event: RequestFailed) -> None:
        """End the span with the error's type, and count."""
        attributes = _facts(event.request)
        status = None
        if event.error_type != GeneratorExit.__name__:  # else a reader had enough of a stream
            attributes["error.type"] = event.error_type
            status = Status(StatusCode.ERROR)
        self._duration.record(event.duration_s, attributes)
        self._end(event.request, attributes, status)

    def _end(
        self, event: RequestStarted, attributes: dict[str, Any], status: Status | None = None
    ) -> None:
        opened = self._spans.pop(event.id, None)
        if opened is None:
            return  # its start has failed
        if opened.token is not None:
            context.detach(opened.token)
        opened.span.set_attributes(attributes)
        if status is not None:
            opened.span.set_status(status)
        opened.span.end()

    def _record_content(self, event: RequestStarted, given: Any, result: Any) -> None:
        if event.id not in self._spans:
            return
        span = self._spans[event.id].span
        sent = [Message("user", given)] if isinstance(given, str) else given
        answer = getattr(result, "message", None) or Message("assistant", result.text)
        reason = str(result.stop_reason)
        came = {**_shown(answer), "finish_reason": _REASONS.get(reason, reason)}
        span.set_attribute("gen_ai.input.messages", json.dumps(list(map(_shown, sent))))
        span.set_attribute("gen_ai.output.messages", json.dumps([came]))


def _facts(event: RequestStarted) -> dict[str, Any]:
    """Return what spans and metrics have in common."""
    origin = event.origin
    return {
        "gen_ai.operation.name": _OPERATIONS[origin.operation],
        "gen_ai.provider.name": origin.provider or "rigging",
        "gen_ai.request.model": origin.model,
    }


def _shown(message: Message) -> dict[str, Any]:
    """Return a message in the conventions' shape; what is no text is named by its kind."""
    content = message.content
    parts: list[dict[str, Any]]
    if message.role == "tool":
        parts = [
            {"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}
        ]
    elif isinstance(content, str):
        parts = [{"type": "text", "content": content}] if content else []
    else:
        parts = [
            {"type": "text", "content": part.text} if part.type == "text" else {"type": part.type}
            for part in content
        ]
    for call in message.tool_calls:
        function = call.function
        parts.append(
            {
                "type": "tool_call",
                "id": call.id,
                "name": function.name,
                "arguments": function.arguments,
            }
        )
    return {"role": message.role, "parts": parts}
