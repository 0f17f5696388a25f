"""Checkpoints: nothing finished is lost or paid for twice, whatever kills the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import rigging as rg
from rigging.error import CheckpointError, RateLimitError
from rigging.testing import EchoGenerator, ScriptedGenerator


class Counting(rg.Generator):
    """Echoes, counts what it is sent, and fails at what starts with "bad"."""

    batch_size: int | None = 1
    flavour: str = "plain"

    _sent: list[str] = []

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage | BaseException]:
        (conversation,) = messages
        text = conversation[-1].text
        self._sent.append(text)
        await asyncio.sleep(0)
        if text.startswith("bad"):
            return [RateLimitError("slow down")]
        return [rg.GeneratedMessage.from_text(f"{text} {params[0].seed}")]

    async def generate_texts(
        self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedText | BaseException]:
        self._sent.extend(texts)
        return [rg.GeneratedText.from_text(f" {text}") for text in texts]


def texts(chats: Any) -> list[str]:
    return [chat.last.text for chat in chats]


def test_the_same_call_again_sends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    first, second = Counting(model="x"), Counting(model="x")

    before = first.chat("Hi").run_batch_sync(["a", "b"], checkpoint=path)
    after = second.chat("Hi").run_batch_sync(["a", "b"], checkpoint=str(path))

    assert second._sent == []
    assert after == before
    assert after[0].continue_("more").messages[-1].text == "more"


def test_what_is_kept_takes_the_notes_of_who_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    pipeline = Counting(model="x").chat("Hi")

    # Of two that are alike one was answered; which of them is not for the file to say.
    pipeline.run_batch_sync(["a"], metadata=[{"line": 2}], checkpoint=path)
    chats = pipeline.run_batch_sync(
        ["a", "a"], metadata=[{"line": 1}, {"line": 2}], checkpoint=path
    )

    assert [chat.metadata["line"] for chat in chats] == [1, 2]
    assert len(pipeline.generator._sent) == 2


def test_a_file_that_takes_no_more_ends_the_batch(tmp_path: Path) -> None:
    """Going on would pay for answers that are lost."""
    path = tmp_path / "run.db"
    pipeline = Counting(model="x").chat()
    pipeline.run_batch_sync(["a"], checkpoint=path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        full = "BEFORE INSERT ON results BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        connection.execute(f"CREATE TRIGGER full {full}")

    with pytest.raises(CheckpointError, match="disk is full"):
        pipeline.run_batch_sync(["b", "c"], checkpoint=path, on_failed="include")


def test_half_a_character_is_no_reason_to_lose_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    pipeline = Counting(model="x").chat()

    chats = pipeline.run_batch_sync(["a\ud800b"], checkpoint=path)
    (kept,) = pipeline.run_batch_sync(["a\ud800b"], checkpoint=path)
    chats.to_jsonl(tmp_path / "chats.jsonl")

    assert chats[0].last.text == "a\ud800b None"
    assert kept.last.text == "a?b None"
    assert kept.uuid == chats[0].uuid
    assert len(pipeline.generator._sent) == 1
    assert '"content":"a?b' in (tmp_path / "chats.jsonl").read_text(encoding="utf-8")


def test_completions_are_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    first, second = Counting(model="x"), Counting(model="x")

    before = first.complete("a").run_many_sync(3, checkpoint=path)
    after = second.complete("a").run_many_sync(3, checkpoint=path)
    # A conversation of the same text is another thing.
    second.chat("a").run_sync()
    chats = second.chat("a").run_many_sync(1, checkpoint=path)

    assert (first._sent, second._sent) == (["a"] * 3, ["a", "a"])
    assert after == before
    assert len(chats) == 1


def test_equal_items_are_kept_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    first, second = Counting(model="x"), Counting(model="x")

    before = first.chat("Hi").run_many_sync(3, checkpoint=path)
    after = second.chat("Hi").run_many_sync(5, checkpoint=path)

    assert after[:3] == before
    assert len({chat.uuid for chat in after}) == 5
    assert second._sent == ["Hi"] * 2


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        pytest.param(lambda g: g.chat("Hi"), [], id="nothing"),
        pytest.param(lambda g: g.chat(rg.Message("user", "Hi", metadata={"a": 1})), [], id="notes"),
        pytest.param(lambda g: g.chat("Ho"), ["a", "b"], id="prompt"),
        pytest.param(lambda g: g.chat(rg.Message("system", "Hi")), ["a", "b"], id="role"),
        pytest.param(lambda g: g.chat("Hi").with_(seed=1), ["a", "b"], id="params"),
        pytest.param(
            lambda g: g.chat("Hi").with_(extra={"user": "x"}), ["a", "b"], id="extra-params"
        ),
    ],
)
def test_what_changes_is_sent_and_what_does_not_is_not(
    tmp_path: Path, change: Any, sent: list[str]
) -> None:
    path = tmp_path / "run.db"
    Counting(model="x").chat("Hi").run_batch_sync(["a", "b"], checkpoint=path)
    generator = Counting(model="x")

    change(generator).run_batch_sync(["a", "b"], checkpoint=path)

    assert generator._sent == sent


def test_another_model_or_field_is_another_item_and_another_key_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    with rg.register_generator("counting", Counting):
        for identifier, sent in [
            ("counting!x,api_key=one", ["Hi"]),
            ("counting!x,api_key=two", []),
            ("counting!y", ["Hi"]),
            ("counting!x,flavour=sour", ["Hi"]),
        ]:
            generator = rg.get_generator(identifier)
            generator.chat("Hi").run_many_sync(1, checkpoint=path)
            assert isinstance(generator, Counting)
            assert generator._sent == sent


def test_generators_without_a_name_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Counting(model="x").chat("Hi").run_many_sync(1, checkpoint=path)

    for generator, sent in [
        (Counting(model="x", api_key="another"), []),
        (Counting(model="y"), ["Hi"]),
        (Counting(model="x", params=rg.GenerateParams(seed=1)), ["Hi"]),
    ]:
        generator.chat("Hi").run_many_sync(1, checkpoint=path)
        assert generator._sent == sent


def test_new_items_join_those_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Counting(model="x").chat().run_batch_sync(["a", "c"], checkpoint=path)
    generator = Counting(model="x")

    chats = generator.chat().run_batch_sync(["a", "b", "c"], checkpoint=path)

    assert texts(chats) == ["a None", "b None", "c None"]
    assert generator._sent == ["b"]


def test_failed_items_are_tried_again_and_finished_ones_never(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    inputs = ["a", "bad", "c"]
    for _ in range(2):
        generator = Counting(model="x")
        chats = generator.chat().run_batch_sync(inputs, checkpoint=path, on_failed="include")
        assert [chat.failed for chat in chats] == [False, True, False]
    assert generator._sent == ["bad"]

    with pytest.raises(RateLimitError) as caught:
        Counting(model="x").chat().run_batch_sync(["d", "bad", "e"], checkpoint=path, window=1)
    assert f"finished ones are kept in {path}" in caught.value.__notes__[0]
    generator = Counting(model="x")
    generator.chat().run_batch_sync(["d", "e"], checkpoint=path)
    assert generator._sent == ["e"]


def test_what_then_made_is_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    calls = []

    def mark(chat: rg.Chat) -> rg.Chat:
        calls.append(chat)
        return chat.meta(marked=True)

    for _ in range(2):
        (chat,) = EchoGenerator(model="x").chat("Hi").then(mark).run_many_sync(1, checkpoint=path)
        assert chat.metadata == {"marked": True}
    assert len(calls) == 1


def test_a_stream_of_items_is_kept_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    async def some(count: int, generator: Counting) -> list[str]:
        stream = generator.chat().iter_batch(
            (str(n) for n in range(10)), ordered=True, window=2, checkpoint=path
        )
        seen = []
        async for chat in stream:
            seen.append(chat.last.text)
            if len(seen) == count:
                break
        await stream.aclose()
        return seen

    asyncio.run(some(5, Counting(model="x")))
    generator = Counting(model="x")
    assert asyncio.run(some(10, generator)) == [f"{n} None" for n in range(10)]
    assert {"0", "1", "2", "3", "4"}.isdisjoint(generator._sent)


# -- The file ----------------------------------------------------------------------------


def test_the_file_is_sqlite_with_json_and_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with rg.register_generator("counting", Counting):
        generator = rg.get_generator("counting!x,api_key=hunter2")
        (chat,) = generator.chat("Hi").run_many_sync(1, checkpoint=path)

    with sqlite3.connect(path) as connection:
        ((digest, occurrence, result),) = connection.execute("SELECT * FROM results").fetchall()
    connection.close()
    assert (len(digest), occurrence) == (16, 1)
    # What holds nothing is not written.
    assert json.loads(result) == json.loads(chat.model_dump_json(exclude_none=True))
    assert "null" not in result
    assert b"hunter2" not in path.read_bytes()


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    async def main() -> None:
        stream = EchoGenerator(model="x").chat().iter_batch(["a", "b"], checkpoint=path)
        await anext(stream)
        with pytest.raises(CheckpointError, match="is in use by another run"):
            await EchoGenerator(model="x").chat("Hi").run_many(1, checkpoint=path)
        await stream.aclose()
        await EchoGenerator(model="x").chat("Hi").run_many(1, checkpoint=path)

    asyncio.run(main())


def test_another_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    code = (
        "import sys, rigging as rg\n"
        "echo = rg.testing.EchoGenerator(model='x')\n"
        "try:\n"
        "    echo.chat('Hi').run_many_sync(1, checkpoint=sys.argv[1])\n"
        "except rg.error.CheckpointError as error:\n"
        "    print(error)\n"
    )

    async def main() -> str:
        stream = EchoGenerator(model="x").chat().iter_batch(["a", "b"], checkpoint=path)
        await anext(stream)
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: ASYNC221 (nothing else runs)
        await stream.aclose()
        return done.stdout

    assert "is in use by another run: wait for it, or use another file" in asyncio.run(main())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    text, other, folder = tmp_path / "text", tmp_path / "other.db", tmp_path / "folder"
    text.write_text("not a database, but text of some length " * 50)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    folder.mkdir()

    for path, reason in [
        (text, "is no checkpoint"),
        (other, "is a database of layout 0"),
        (folder, "cannot be opened"),
        (tmp_path / "no" / "such" / "folder", "cannot be opened"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            EchoGenerator(model="x").chat("Hi").run_many_sync(1, checkpoint=path)
    assert text.read_text().startswith("not a database")


def test_a_disk_that_is_full_fails_the_run_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    big = ScriptedGenerator(["x" * 100_000] * 50)

    async def main() -> None:
        from rigging import _checkpoint

        original = _checkpoint._connect

        def small(path: Path) -> sqlite3.Connection:
            connection = original(path)
            # A real limit of SQLite's, reported as a full disk is.
            connection.execute("PRAGMA max_page_count = 20")
            return connection

        _checkpoint._connect = small
        try:
            await big.chat("Hi").run_many(50, checkpoint=path)
        finally:
            _checkpoint._connect = original

    with pytest.raises(CheckpointError, match="full"):
        asyncio.run(main())


# -- Killed ------------------------------------------------------------------------------


class CountingServer:
    """Answers each request with what it was asked, and counts."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.in_flight = 0
        lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                text = self.rfile.read(length).decode()
                with lock:
                    owner.served[text] += 1
                body = f"answer to {text}".encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the client was killed
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a killed client's connection breaks

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.close()


ITEMS = 2_000
WINDOW = 16
KILLS = 10
CLIENT = textwrap.dedent(
    """
    import asyncio, sys
    import rigging as rg

    port, path, items, window = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


    class Client(rg.Generator):
        batch_size: int | None = 1

        async def generate_messages(self, messages, params):
            body = messages[0][-1].text.encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
                         b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
            answer = (await reader.read()).partition(b"\\r\\n\\r\\n")[2].decode()
            writer.close()
            return [rg.GeneratedMessage.from_text(answer)]


    async def main():
        pipeline = Client(model="x").chat()
        print("started", flush=True)
        inputs = [f"item {n}" for n in range(items)]
        chats = await pipeline.run_batch(inputs, checkpoint=path, window=window)
        for chat in chats:
            print(chat.last.text)


    asyncio.run(main())
    """
)


@pytest.mark.slow
def test_a_batch_that_is_killed_again_and_again_loses_nothing_and_pays_once(
    tmp_path: Path, server: CountingServer
) -> None:
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", CLIENT, str(server.port), str(path), str(ITEMS), str(WINDOW)]
    chance = random.Random(7)  # noqa: S311 (no secret)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # "started"
        before = sum(server.served.values())
        target = before + chance.randrange(20, ITEMS // KILLS - 20)
        deadline = time.monotonic() + 60
        while sum(server.served.values()) < target and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(chance.random() / 200)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += 1

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.splitlines() == ["started", *(f"answer to item {n}" for n in range(ITEMS))]
    served = sum(server.served.values())
    assert set(server.served) == {f"item {n}" for n in range(ITEMS)}
    assert served <= ITEMS + KILLS * WINDOW, f"{served - ITEMS} requests were sent again"
