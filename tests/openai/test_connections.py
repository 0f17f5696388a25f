"""Connections: kept, closed, bounded, and never led astray."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import shutil
import socket
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import error
from tests.support.exposure import shown
from tests.support.faults import KEY, STREAMED, WHOLE, ask
from tests.support.openai_server import OpenAIServer, Reply, error_body
from tests.support.proxy_server import ProxyServer
from tests.support.tls import make_authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rigging_openai import OpenAIGenerator

    Make = Callable[..., OpenAIGenerator]

WAYS = pytest.mark.parametrize("way", [*WHOLE, *STREAMED])


def connections(server: OpenAIServer) -> int:
    return len({request.connection for request in server.requests})


# -- Kept and closed ---------------------------------------------------------------------


@WAYS
def test_requests_after_each_other_share_a_connection(
    make: Make, server: OpenAIServer, way: str
) -> None:
    generator = make()

    async def several() -> None:
        for _ in range(4):
            await ask(generator, way)

    asyncio.run(several())

    assert connections(server) == 1


def test_an_answer_that_says_no_leaves_the_connection_usable(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(Reply(error_body("no"), 400), Reply(error_body("no"), 500))
    generator = make(max_connections=1)

    asyncio.run(generator.chat("Hi").run_many(4, on_failed="skip"))

    assert (len(server.requests), connections(server)) == (4, 1)


@pytest.mark.parametrize("delay_ms", [0, 1])
def test_a_request_that_is_cancelled_takes_only_its_own_connection_along(
    make: Make, server: OpenAIServer, delay_ms: int
) -> None:
    server.prepare(*[Reply(delay_s=60)] * 10)
    generator = make(max_connections=10, min_delay_between_requests=delay_ms)

    async def run() -> None:
        asking = [asyncio.create_task(ask(generator, "chat")) for _ in range(10)]
        await server.received(10)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.wait_for(server.left_by(10), 30)
        before = connections(server)
        for _ in range(3):
            await ask(generator, "chat")
        assert connections(server) == before + 1

    asyncio.run(run())


def test_each_loop_has_connections_of_its_own(make: Make, server: OpenAIServer) -> None:
    generator = make()

    for _ in range(3):
        asyncio.run(generator.chat("Hi").run_many(2))
    generator.chat("Hi").run_sync()

    assert len(server.requests) == 7
    gc.collect()  # whatever was left open warns now, and warnings are errors


def test_a_generator_that_is_gone_leaves_no_connection(make: Make, server: OpenAIServer) -> None:
    async def run() -> int:
        generator = make()
        await generator.chat("Hi").run()
        del generator
        gc.collect()
        async with asyncio.timeout(30):
            while server.open_connections:  # noqa: ASYNC110 (it is on another loop)
                await asyncio.sleep(0.01)
        return 0

    assert asyncio.run(run()) == 0


ENDINGS = {
    "asyncio-run": "asyncio.run(generator.chat('Hi').run())",
    "twice": "asyncio.run(generator.chat('Hi').run())\nasyncio.run(generator.chat('Hi').run())",
    "sync": "generator.chat('Hi').run_sync()",
    "stream-left-early": """
        async def main():
            async for piece in generator.chat('Hi').stream():
                break
        asyncio.run(main())
    """,
    "loop-left-open": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        del loop
    """,
    "loop-closed": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        loop.close()
    """,
    "loop-closed-then-another": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        loop.close()
        del loop
        asyncio.run(generator.chat('Hi').run())
    """,
    "loop-closed-and-generator-gone": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        loop.close()
        del loop, generator
        gc.collect()
    """,
    "generator-gone-in-another-loop": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        async def main():
            global generator
            del generator
            gc.collect()
        asyncio.run(main())
    """,
    "loop-shut-down-and-used-on": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(generator.chat('Hi').run())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(generator.chat('Hi').run())
        loop.close()
    """,
    "error": """
        try:
            asyncio.run(generator.chat('Hi').with_(extra={'stream': 1}).run())
        except rg.error.BadRequestError:
            asyncio.run(generator.chat('Hi').run())
    """,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_without_a_word_about_connections(server: OpenAIServer, ending: str) -> None:
    code = "import asyncio, gc, rigging as rg\n"
    code += f"generator = rg.get_generator('openai!tiny,api_base={server.url}')\n"
    code += textwrap.dedent(ENDINGS[ending])

    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    # asyncio warns of loops that are closed too early, and may show a line of its source.
    told = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    told = [line for line in told if "event loop" not in line]
    assert (done.returncode, done.stdout) == (0, "")
    assert not [line for line in told if "lient" in line or "onnect" in line], done.stderr


USED_ON = pytest.mark.filterwarnings("ignore:asynchronous generator:ResourceWarning")  # asyncio's


@USED_ON
@pytest.mark.parametrize("used_before", [True, False])
def test_a_loop_that_was_shut_down_can_be_used_on(
    make: Make, server: OpenAIServer, used_before: bool
) -> None:
    generators = [make()]
    loop = asyncio.new_event_loop()

    async def two() -> None:
        for _ in range(2):
            await ask(generators[0], "chat")

    try:
        if used_before:
            loop.run_until_complete(two())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(two())
        generators.clear()
        gc.collect()  # closes what is open, as the loop does it no more
    finally:
        loop.close()

    assert len(server.requests) == (4 if used_before else 2)
    assert connections(server) == (2 if used_before else 1)


@USED_ON
def test_a_generator_that_is_gone_leaves_no_connection_on_a_loop_that_was_shut_down(
    make: Make, server: OpenAIServer
) -> None:
    async def run() -> None:
        generator = make()
        await ask(generator, "chat")
        await asyncio.get_running_loop().shutdown_asyncgens()
        await ask(generator, "chat")
        del generator
        gc.collect()
        async with asyncio.timeout(30):
            while server.open_connections:  # noqa: ASYNC110 (it is on another loop)
                await asyncio.sleep(0.01)

    asyncio.run(run())


# -- Bounds ------------------------------------------------------------------------------

LONG = {"choices": [{"message": {"role": "assistant", "content": "x" * 5000}}]}
PIECE = {"choices": [{"index": 0, "text": "x" * 100, "delta": {"content": "x" * 100}}]}


@WAYS
def test_an_answer_longer_than_the_bound_is_refused(
    make: Make, server: OpenAIServer, way: str
) -> None:
    server.usual = Reply(LONG) if way in WHOLE else Reply(events=[PIECE] * 100)

    with pytest.raises(error.ResponseError, match=r"longer than 1000 bytes \(max_response_bytes"):
        asyncio.run(ask(make(max_response_bytes=1000), way))


def test_an_endless_answer_is_refused(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2**20)

    with pytest.raises(error.ResponseError, match="longer than 1000 bytes"):
        asyncio.run(ask(make(max_response_bytes=1000), "chat"))


def packed(body: bytes, how: str = "gzip") -> Reply:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {how}\r\nContent-Length: {len(body)}\r\n"
    return Reply(raw=f"{head}Content-Type: application/json\r\n\r\n".encode() + body)


@pytest.mark.parametrize(
    ("how", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)],
)
def test_an_answer_that_is_packed_unasked_is_read(
    make: Make, server: OpenAIServer, how: str, pack: Callable[[bytes], bytes]
) -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "packed"}}]}
    server.usual = packed(pack(json.dumps(body).encode()), how)

    assert asyncio.run(make().chat("Hi").run()).last.text == "packed"
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_small_answer_that_unpacks_to_a_huge_one_takes_no_memory(
    make: Make, server: OpenAIServer
) -> None:
    server.usual = packed(gzip.compress(b" " * 2**28))
    generator = make(max_response_bytes=2**20)
    asyncio.run(generator.complete("Hi").run_many(0))

    tracemalloc.start()
    try:
        with pytest.raises(error.ResponseError, match="longer than 1048576 bytes"):
            asyncio.run(ask(generator, "chat"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 2**26


def test_what_follows_a_packed_answer_is_refused(make: Make, server: OpenAIServer) -> None:
    whole = gzip.compress(b'{"choices": []}')
    server.usual = packed(whole + b"x" * 2**20)

    with pytest.raises(error.ResponseError, match="follows the packed content"):
        asyncio.run(ask(make(max_retries=0), "chat"))


def test_bytes_that_unpack_to_nothing_count_too(make: Make, server: OpenAIServer) -> None:
    empty = b"\x00\x00\x00\xff\xff"  # a stored block of no bytes
    server.usual = packed(b"\x78\x9c" + empty * 2**19, "deflate")

    with pytest.raises(error.ResponseError, match="longer than 1048576 bytes"):
        asyncio.run(ask(make(max_response_bytes=2**20, max_retries=0), "chat"))


def test_an_answer_packed_in_an_unknown_way_is_refused(make: Make, server: OpenAIServer) -> None:
    server.usual = packed(b"\x0b\x02\x80{}\x03", "br")

    with pytest.raises(error.ResponseError, match="packed as 'br'"):
        asyncio.run(ask(make(), "chat"))


def test_an_answer_packed_in_a_broken_way_is_refused(make: Make, server: OpenAIServer) -> None:
    server.usual = packed(b"this is no gzip")

    with pytest.raises(error.ResponseError, match="packed in a broken way"):
        asyncio.run(ask(make(), "chat"))


# -- Redirects ---------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_host_is_followed(
    make: Make, server: OpenAIServer, way: str, status: int
) -> None:
    server.prepare(Reply("", status, {"Location": "?moved=1"}))

    asyncio.run(ask(make(), way))

    moved = server.requests[-1]
    assert moved.query == {"moved": "1"}
    assert moved.headers["Authorization"] == f"Bearer {KEY}"
    assert moved.body == server.requests[0].body


@WAYS
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_carries_nothing_there(
    make: Make, server: OpenAIServer, way: str, status: int
) -> None:
    with OpenAIServer() as other:
        server.usual = Reply("", status, {"Location": f"{other.url}/chat/completions"})
        generator = make(headers={"api-key": "sk-in-a-header"})

        with pytest.raises(error.ResponseError, match="openai!tiny") as caught:
            asyncio.run(ask(generator, way))

        assert other.requests == []
    assert KEY not in shown(caught.value)
    assert "sk-in-a-header" not in shown(caught.value)


def test_a_redirect_to_another_host_says_what_to_do(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply("", 307, {"Location": f"http://u:{KEY}@other.invalid/{KEY}"})

    with pytest.raises(error.ResponseError, match=r"another host, other\.invalid.*set api_base"):
        asyncio.run(ask(make(), "chat"))


def test_redirects_in_a_circle_are_no_answer(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply("", 307, {"Location": f"{server.url}/chat/completions"})

    with pytest.raises(error.ResponseError, match="redirects lead nowhere"):
        asyncio.run(ask(make(), "chat"))

    assert len(server.requests) == 5


def test_redirects_leave_nothing_behind(make: Make, server: OpenAIServer) -> None:
    generator = make()
    server.prepare(
        *[reply for n in range(20) for reply in (Reply("", 307, {"Location": f"?n={n}"}), Reply())]
    )

    async def run() -> int:
        for _ in range(20):
            await ask(generator, "chat")
        client = generator._kept.client
        return len(client._sessions.pool()._proxies)

    assert asyncio.run(run()) == 1


# -- Injection ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        pytest.param({"api_key": f"{KEY}\r\nX-Evil: 1"}, "api_key holds", id="key"),
        pytest.param({"api_key": f"{KEY}\n"}, "api_key holds", id="key-end"),
        pytest.param({"headers": {"X-A": "b\r\nX-Evil: 1"}}, "the header X-A holds", id="value"),
        pytest.param({"headers": {"X-A: b\r\nX-Evil": "1"}}, "a header's name", id="name"),
        pytest.param({"headers": {"": "1"}}, "a header's name", id="no-name"),
        pytest.param({"organization": "o\nX-Evil: 1"}, "organization holds", id="organization"),
        pytest.param({"project": "p\x00"}, "project holds", id="project"),
        pytest.param({"headers": {"Content-Length": "0"}}, "header Content-Length is", id="length"),
        pytest.param(
            {"headers": {"transfer-encoding": "chunked"}}, "transfer-encoding is", id="chunks"
        ),
        pytest.param({"headers": {"Content-Encoding": "gzip"}}, "Content-Encoding", id="packing"),
        pytest.param({"headers": {"Connection": "close"}}, "Connection is for", id="connection"),
        pytest.param({"query": {"k": f"{KEY}\ud800"}}, "surrogates", id="query"),
        pytest.param({"api_base": "http://x/v1 HTTP/1.1\r\nX-Evil: 1"}, "api_base", id="base"),
    ],
)
@pytest.mark.parametrize("way", ["chat", "streamed text"])
def test_what_would_become_a_header_of_its_own_is_refused_and_not_shown(
    make: Make, server: OpenAIServer, options: dict[str, Any], what: str, way: str
) -> None:
    with pytest.raises(error.BadRequestError, match=what) as caught:
        asyncio.run(ask(make(**options), way))

    assert server.requests == []
    assert KEY not in shown(caught.value)


def test_a_query_is_encoded(make: Make, server: OpenAIServer) -> None:
    asyncio.run(ask(make(query={"a": "b HTTP/1.1\r\nX-Evil: 1"}), "chat"))

    assert server.requests[0].query == {"a": "b HTTP/1.1\r\nX-Evil: 1"}
    assert "X-Evil" not in server.requests[0].headers


# -- Proxies -----------------------------------------------------------------------------


@WAYS
def test_the_environments_proxy_is_asked(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with ProxyServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        asyncio.run(ask(make(), way))

    (head,) = proxy.heads
    assert head.startswith(f"POST {server.url}/")
    assert len(server.requests) == 1


def test_no_proxy_names_hosts_that_are_asked_directly(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
        asyncio.run(ask(make(), "chat"))

    assert proxy.heads == []
    assert len(server.requests) == 1


def test_a_proxy_may_be_written_without_a_scheme(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://"))
        asyncio.run(ask(make(), "chat"))

    assert len(proxy.heads) == 1


@pytest.mark.parametrize(
    ("address", "cls"),
    [
        pytest.param("me:s3cret-word@127.0.0.1:9", error.ProviderConnectionError, id="no-scheme"),
        pytest.param("me:s3cret-word@[::1", error.BadRequestError, id="half-a-host"),
        pytest.param("http://me:s3cret%2Dword@x:port", error.BadRequestError, id="no-port"),
        pytest.param("socks5://me:s3cret-word@127.0.0.1:9", error.BadRequestError, id="socks"),
    ],
)
@pytest.mark.parametrize("way", ["chat", "streamed text"])
def test_a_proxy_that_cannot_be_asked_shows_no_password(
    make: Make, monkeypatch: pytest.MonkeyPatch, address: str, cls: type[Exception], way: str
) -> None:
    monkeypatch.setenv("http_proxy", address)

    with pytest.raises(cls, match="openai!tiny") as caught:
        asyncio.run(ask(make(), way))

    assert "s3cret" not in shown(caught.value)


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4", "ftp"])
def test_a_proxy_of_another_kind_is_refused_and_not_contacted(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str
) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        monkeypatch.setenv(variable, f"{scheme}://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(error.BadRequestError, match=f"a {scheme} proxy.*no_proxy"):
            asyncio.run(ask(make(), "chat"))
        with pytest.raises(BlockingIOError, match="unavailable"):
            proxy.accept()

    assert server.requests == []


def test_a_proxys_password_is_sent_and_reaches_no_error(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProxyServer() as proxy:
        address = proxy.url.replace("http://", "http://me:s3cret-word@")
        monkeypatch.setenv("http_proxy", address)
        asyncio.run(ask(make(), "chat"))
    assert "proxy-authorization: basic" in proxy.heads[0].lower()

    # Now nobody is there.
    with pytest.raises(error.ProviderConnectionError, match="onnect") as caught:
        asyncio.run(ask(make(), "chat"))
    assert "s3cret-word" not in shown(caught.value)
    assert len(server.requests) == 1


# -- Certificates ------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes certificates with openssl")
def test_a_file_says_which_certificates_to_trust(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, tls = make_authority(tmp_path)
    with OpenAIServer(tls) as server:
        trusting = make(api_base=server.url, ca_file=str(authority))

        assert asyncio.run(trusting.chat("Hi").run()).last.text == "You said: Hi"
        with ProxyServer() as proxy:
            monkeypatch.setenv("https_proxy", proxy.url)
            assert asyncio.run(trusting.chat("Hi").run()).last.text == "You said: Hi"
            monkeypatch.delenv("https_proxy")
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{server.port} ")
        assert KEY not in proxy.heads[0]
        with pytest.raises(error.ProviderConnectionError, match="CERTIFICATE_VERIFY") as caught:
            asyncio.run(make(api_base=server.url).chat("Hi").run())
    assert caught.value.retryable is False


def test_a_file_of_certificates_that_is_missing_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(error.BadRequestError, match="ca_file cannot be used"):
        asyncio.run(ask(make(ca_file=str(tmp_path / "none.pem")), "chat"))


# -- Streams -----------------------------------------------------------------------------


def test_a_stream_that_is_left_closes_its_connection_and_no_other(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(Reply(events=[PIECE] * 2, trickle_s=60))
    generator = make(max_connections=2)

    async def leave() -> None:
        pieces = generator.stream_texts("Hi", rg.GenerateParams())
        async with contextlib.aclosing(pieces):
            await anext(pieces)
            await ask(generator, "chat")
        await asyncio.wait_for(server.left_by(1), 30)
        await ask(generator, "chat")

    asyncio.run(leave())

    assert connections(server) == 2
