"""A server on loopback that speaks Ollama's protocol, and cuts long prompts as Ollama does.

A token is a word. Its model repeats what it was given to read, so that an answer shows what
was left of the prompt.

Source:
    Ollama documentation, "API"; for the two ways to cut a prompt, what `ollama serve` logs
    as "truncating input prompt", of versions before and from 0.30.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import web

from tests.support.loopback import LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OllamaRequest", "OllamaServer"]

_KEEP: Final = 4  # num_keep, of Ollama's own defaults
_FACTS: Final = {"model": "", "created_at": "2024-07-22T20:33:28.123648Z"}


@dataclass(frozen=True)
class OllamaRequest:
    """A request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class _Answer:
    words: list[str]
    read: int  # tokens of the prompt, after it was cut
    reason: str
    tool_calls: list[dict[str, Any]] | None = None


class _TooLongError(Exception):
    """A prompt does not fit, and may not be cut."""


class OllamaServer(LoopbackServer):
    """Serves ``/api/chat``, ``/api/generate`` and what says which models there are.

    Attributes:
        requests: What arrived at the two endpoints that generate, in order.
        context_length: The context window in tokens, where a request sets no ``num_ctx``.
        cut: What a prompt that is too long is cut to: the whole window, or half of it.
        breaks: What the model's runner says when it breaks down after the first word; None
            where it does not.
    """

    models: Final = ("tiny:latest", "tiny:8b")

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.reset()

    @property
    def url(self) -> str:
        """The ``api_base``."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Forget what arrived, and take the defaults again."""
        self.requests: list[OllamaRequest] = []
        self.context_length = 4096
        self.cut: Literal["window", "half"] = "half"
        self.breaks: str | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/api/{path:chat|generate}", self._generate)
        router.add_post("/api/show", self._show)
        router.add_get("/api/tags", self._tags)
        router.add_get("/api/version", self._version)

    # -- What there is -------------------------------------------------------------------

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.2"})

    async def _tags(self, _request: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": n, "model": n} for n in self.models]})

    async def _show(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body.get("model") or body.get("name")
        if not self._has(name):
            return _not_found(name)
        return web.json_response(
            {
                "template": "{{ .System }}{{ .Tools }}{{ .Prompt }}",
                "capabilities": ["completion", "tools", "vision"],
                "model_info": {"tiny.context_length": 131072},
            }
        )

    def _has(self, name: str) -> bool:
        return (name if ":" in name else f"{name}:latest") in self.models

    # -- Generating ----------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        body = await request.json()
        self.requests.append(OllamaRequest(path, dict(request.headers), body))
        if not self._has(body["model"]):
            return _not_found(body["model"])
        try:
            chat = path == "chat"
            answer = self._continue_chat(body) if chat else self._continue_text(body)
        except _TooLongError as error:
            return web.json_response({"error": str(error)}, status=400)
        parts = [*_parts(path, body, answer), _last_part(path, body, answer)]
        if self.breaks:
            parts = [parts[0], {"error": self.breaks}]
        if not body.get("stream", True):
            if self.breaks:
                return web.json_response(parts[-1], status=500)
            return web.json_response(_whole(path, parts))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for part in parts:
            await response.write(f"{json.dumps(part)}\n".encode())
        return response

    def _continue_chat(self, body: dict[str, Any]) -> _Answer:
        messages = body["messages"]
        if body.get("truncate", True):
            messages = self._that_fit(messages, self._window(body))
        prompt = self._cut(_render(messages), body)
        tools = body.get("tools")
        if tools and messages[-1]["role"] == "user":
            function = {"name": tools[0]["function"]["name"], "arguments": {"a": 1}}
            return _Answer([], len(prompt), "stop", [{"function": function}])
        return self._answer(body, prompt)

    def _continue_text(self, body: dict[str, Any]) -> _Answer:
        prompt = body["prompt"].split()
        if not body.get("raw"):
            prompt = _render([{"role": "user", "content": body["prompt"]}])
        return self._answer(body, self._cut(prompt, body))

    def _answer(self, body: dict[str, Any], prompt: list[str]) -> _Answer:
        words = ["I", "read:", *prompt]
        if body.get("format"):
            words = [json.dumps({"read": len(prompt)})]
        options = body.get("options", {})
        stops = [words.index(stop) for stop in options.get("stop") or [] if stop in words]
        words = words[: min(stops, default=None)]
        limit = options.get("num_predict", -1)
        if 0 <= limit < len(words):
            return _Answer(words[:limit], len(prompt), "length")
        return _Answer(words, len(prompt), "stop")

    # -- Cutting -------------------------------------------------------------------------

    def _window(self, body: dict[str, Any]) -> int:
        window: int = body.get("options", {}).get("num_ctx", self.context_length)
        return window

    def _that_fit(self, messages: list[dict[str, Any]], window: int) -> list[dict[str, Any]]:
        """Leave out the oldest messages, but no system message and not the last one."""
        kept = list(messages)
        for message in messages[:-1]:
            if len(_render(kept)) <= window:
                break
            if message["role"] != "system":
                kept.remove(message)
        return kept

    def _cut(self, prompt: list[str], body: dict[str, Any]) -> list[str]:
        """Keep the first few tokens and the last ones."""
        window = self._window(body)
        if len(prompt) <= window:
            return prompt
        if not body.get("truncate", True):
            raise _TooLongError(
                f"request ({len(prompt)} tokens) exceeds the available context size "
                f"({window} tokens), try increasing it"
            )
        length = window if self.cut == "window" else _KEEP + (window - _KEEP) // 2
        return prompt[:_KEEP] + prompt[_KEEP - length :]


def _render(messages: list[dict[str, Any]]) -> list[str]:
    words: list[str] = []
    for message in messages:
        words += [f"<{message['role']}>", *message["content"].split()]
        words += ["<image>"] * len(message.get("images") or ())
    return [*words, "<assistant>"]


def _parts(path: str, body: dict[str, Any], answer: _Answer) -> list[dict[str, Any]]:
    parts = []
    for number, word in enumerate(answer.words):
        text = f" {word}" if number else word
        said = {"message": {"role": "assistant", "content": text}}
        parts.append(
            {
                **_FACTS,
                "model": body["model"],
                **(said if path == "chat" else {"response": text}),
                "done": False,
            }
        )
    if answer.tool_calls:
        message = {"role": "assistant", "content": "", "tool_calls": answer.tool_calls}
        parts.append({**_FACTS, "model": body["model"], "message": message, "done": False})
    return parts


def _last_part(path: str, body: dict[str, Any], answer: _Answer) -> dict[str, Any]:
    empty = {"message": {"role": "assistant", "content": ""}}
    return {
        **_FACTS,
        "model": body["model"],
        **(empty if path == "chat" else {"response": ""}),
        "done": True,
        "done_reason": answer.reason,
        "total_duration": 5_191_566_416,
        "load_duration": 2_154_458,
        "prompt_eval_count": answer.read,
        "prompt_eval_duration": 383_809_000,
        "eval_count": len(answer.words),
        "eval_duration": 4_799_921_000,
    }


def _whole(path: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the parts of an answer, as Ollama does where no stream is asked for."""
    *said, last = parts
    if path == "generate":
        return {**last, "response": "".join(part["response"] for part in said)}
    message = {"role": "assistant", "content": "".join(p["message"]["content"] for p in said)}
    for part in said:
        if "tool_calls" in part["message"]:
            message["tool_calls"] = part["message"]["tool_calls"]
    return {**last, "message": message}


def _not_found(model: str) -> web.Response:
    return web.json_response({"error": f"model '{model}' not found"}, status=404)
