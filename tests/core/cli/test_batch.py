"""`rigging batch`: a file of items, a file of results, and nothing lost between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rigging.cli._progress import Display
from rigging.cli._tally import Histogram, Tally
from tests.core.cli.conftest import Done

if sys.platform != "win32":
    import pexpect

Rigging = Callable[..., Done]


def write(path: Path, *items: Any) -> Path:
    lines = (item if isinstance(item, str) else json.dumps(item) for item in items)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def said(line: dict[str, Any]) -> str | None:
    return line["generated"][0]["content"] if line["generated"] else None


def test_results_stand_in_the_order_of_the_items(rigging: Rigging, tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        {"prompt": "slow one", "id": "a"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}]},
        "",
        {"prompt": "three", "params": {"seed": 7}, "metadata": {"row": 3}},
        {"prompt": "vier, fünf, \u2028 sechs", "id": 12},
    )
    out = tmp_path / "out.jsonl"

    done = rigging("batch", "words!any,seed=1", source, "-o", out)

    lines = read(out)
    assert done.code == 0
    assert [line["id"] for line in lines] == ["a", 2, 4, 12]
    assert [said(line) for line in lines] == [
        "1 SLOW ONE 1",
        "1 TWO 1",
        "1 THREE 7",
        "1 VIER, FÜNF, \u2028 SECHS 1",
    ]
    assert [line.get("metadata") for line in lines] == [None, None, {"row": 3}, None]
    assert lines[1]["messages"][0] == {"role": "system", "content": "s"}
    assert lines[0]["usage"]["output_tokens"] == 3
    assert lines[0]["stop_reason"] == "stop"
    assert lines[0]["error"] is None
    assert "4 items: 4 answered" in done.out
    assert "tokens: 8 in, 12 out" in done.out
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        "generators.py",
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.checkpoint",
    }


def test_failures_stand_in_the_results_and_are_tried_again(
    rigging: Rigging, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "one"}, {"prompt": "bad"})
    out = tmp_path / "out.jsonl"

    first = rigging("batch", "words!any", source, "-o", out, "--json")
    lines = read(out)
    again = rigging("batch", "words!any", source, "-o", out, "--json")

    assert first.code == again.code == 4
    assert [line["error"] for line in lines] == [None, "RateLimitError: slow down"]
    assert lines[1]["generated"] == []
    assert lines[1]["stop_reason"] is None
    assert read(out) == lines
    facts = json.loads(first.out)
    assert (facts["finished"], facts["failed"], facts["kept"]) == (1, 1, 0)
    assert facts["failures"] == {"RateLimitError": 1}
    assert json.loads(again.out)["kept"] == 1  # and was not paid for again


def test_failed_items_can_be_left_out_or_end_the_batch(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "one"}, {"prompt": "bad"}, {"prompt": "two"})
    out = tmp_path / "out.jsonl"

    ended = rigging("batch", "words!any", source, "-o", out, "--on-failed", "raise")
    is_there = out.exists()
    skipped = rigging("batch", "words!any", source, "-o", out, "--on-failed", "skip")

    assert (ended.code, is_there) == (1, False)
    assert "rigging: slow down" in ended.err
    assert "item 1 failed" in ended.err
    assert skipped.code == 4
    assert [line["id"] for line in read(out)] == [1, 3]


def test_whatever_a_generator_raises_is_the_items_failure(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "boom"}, {"prompt": "one"})
    out = tmp_path / "out.jsonl"

    done = rigging("batch", "words!any,max_connections=99999999", source, "-o", out)

    assert done.code == 4
    assert [line["error"] for line in read(out)] == ["ValueError: no error of rigging's", None]


def test_all_failed_is_no_partial_success(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "bad"})

    assert rigging("batch", "words!any", source, "-o", tmp_path / "out.jsonl").code == 1


def test_nothing_to_do_makes_an_empty_file(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl")

    done = rigging("batch", "words!any", source, "-o", tmp_path / "out.jsonl")

    assert done.code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object, got list"),
        ('{"promt": "x"}', "unknown key 'promt'; did you mean 'prompt'?"),
        ('{"prompt": "x", "zzz": 1}', "there are prompt, messages, id, params, metadata"),
        ("{}", "either a prompt or messages"),
        ('{"prompt": "x", "messages": []}', "either a prompt or messages"),
        ('{"messages": []}', "messages are empty"),
        ('{"messages": [{"role": "usr", "content": "x"}]}', "role: expected 'system'"),
        ('{"prompt": 3}', "prompt is a text, got int"),
        ('{"prompt": "x", "params": {"temprature": 1}}', "did you mean 'temperature'?"),
        ('{"prompt": "x", "params": [1]}', "params is an object, got list"),
        ('{"prompt": "x", "id": 1.5}', "id is a text or an integer, got float"),
        ('{"prompt": "x", "metadata": "y"}', "metadata is an object, got str"),
        ('{"prompt": "x", "metadata": {"a": NaN}}', "NaN is no JSON"),
        ('{"prompt": "x", "id": "\\ud800"}', "its result could not be kept"),
    ],
)
def test_a_line_that_is_no_item_is_named_before_anything_is_sent(
    rigging: Rigging, tmp_path: Path, line: str, reason: str
) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "fine"}, line)

    done = rigging("batch", "words!any", source, "-o", tmp_path / "out.jsonl")

    assert done.code == 2
    assert f"{source}, line 2: " in done.err
    assert reason in done.err
    assert not (tmp_path / "out.jsonl.checkpoint").exists()


def test_files_that_are_the_same_are_refused(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "fine"})

    same = rigging("batch", "words!any", source, "-o", source)
    nowhere = rigging("batch", "words!any", source, "-o", tmp_path / "no" / "out.jsonl")

    missing = rigging("batch", "words!any", tmp_path / "no.jsonl", "-o", tmp_path / "o.jsonl")
    folder = rigging("batch", "words!any", tmp_path, "-o", tmp_path / "o.jsonl")
    page = rigging("batch", "words!any", source, "-o", tmp_path / "o.jsonl", "--report", tmp_path)

    assert same.code == nowhere.code == missing.code == folder.code == page.code == 2
    assert f"there is no file {tmp_path}" in folder.err
    assert "--report" in page.err
    assert not (tmp_path / "o.jsonl").exists()
    assert f"there is no file {tmp_path / 'no.jsonl'}" in missing.err
    assert "files of their own" in same.err
    assert f"there is no folder {tmp_path / 'no'}" in nowhere.err
    assert read(source) == [{"prompt": "fine"}]


@pytest.mark.parametrize("option", ["--checkpoint", "--report"])
def test_a_folder_without_the_right_to_write_is_refused(
    rigging: Rigging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    source, locked = write(tmp_path / "in.jsonl", {"prompt": "fine"}), tmp_path / "locked"
    locked.mkdir()
    # Who runs the tests may be root, to whom no folder is locked.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)

    done = rigging("batch", "words!any", source, "-o", tmp_path / "out.jsonl", option, locked / "x")

    assert done.code == 2
    assert f"{locked / 'x'} cannot be written" in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_same_file_by_another_name_is_refused(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "fine"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")

    same = rigging("batch", "words!any", source, "-o", tmp_path / "folder" / ".." / "in.jsonl")
    link = rigging("batch", "words!any", source, "-o", tmp_path / "link.jsonl")

    assert same.code == link.code == 2
    assert read(source) == [{"prompt": "fine"}]
    assert "no plain file" in link.err


def test_files_of_others_beside_the_output_are_left_alone(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "out.jsonl.part", {"prompt": "one"})

    done = rigging("batch", "words!any", source, "-o", tmp_path / "out.jsonl")

    assert done.code == 0
    assert read(source) == [{"prompt": "one"}]
    assert not list(tmp_path.glob(".out*"))


def test_items_may_come_through_a_pipe_and_be_the_first_ones_only(
    rigging: Rigging, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    items = '{"prompt": "one"}\n{"prompt": "two"}\n'

    done = rigging("batch", "words!any", "-", "-o", out, "--limit", "1", stdin=items)

    assert done.code == 0
    assert [said(line) for line in read(out)] == ["1 ONE"]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_with_a_name_is_read_like_a_file(rigging: Rigging, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write, args=(pipe, {"prompt": "one"}, {"prompt": "two"}))
    writer.start()

    done = rigging("batch", "words!any", pipe, "-o", out)
    writer.join()

    assert done.code == 0
    assert [said(line) for line in read(out)] == ["1 ONE", "1 TWO"]


def test_texts_are_continued(rigging: Rigging, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", {"prompt": "Once"})
    chats = write(tmp_path / "chats.jsonl", {"messages": [{"role": "user", "content": "x"}]})
    out = tmp_path / "out.jsonl"

    done = rigging("batch", "echo!any", source, "-o", out, "--complete")
    refused = rigging("batch", "echo!any", chats, "-o", out, "--complete")
    also = rigging("batch", "echo!any", source, "-o", out, "--complete", "--system", "x")

    assert done.code == 0
    (line,) = read(out)
    assert (line["prompt"], line["generated"]) == ("Once", "Once")
    assert refused.code == also.code == 2
    assert "with --complete, an item has a prompt" in refused.err


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.rects = 0
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rects += tag == "rect"
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.titles.append(data)


def test_the_report_is_one_page_with_its_charts(rigging: Rigging, tmp_path: Path) -> None:
    prompts = [{"prompt": text} for text in ("one", "slow", "bad", "two", "bad <b>")]
    source = write(tmp_path / "in.jsonl", *prompts)
    html = tmp_path / "report.html"

    out = tmp_path / "out.jsonl"
    done = rigging("batch", "words!<any>", source, "-o", out, "--report", html)

    page = Page()
    page.feed(html.read_text(encoding="utf-8"))
    text = " ".join(page.titles)
    for part in ("Batch with words!<any>", "Latency of requests", "Failures", "RateLimitError"):
        assert part in text
    assert f"charts are in {html}" in done.err
    assert page.rects >= 4
    assert page.links == []


BATCH = [sys.executable, "-m", "rigging.cli", "batch", "words!any"]


def start(tmp_path: Path, generators: Path, source: Path) -> subprocess.Popen[str]:
    command = [*BATCH, source, "-o", tmp_path / "out.jsonl", "--import", generators]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_goes_on_where_it_was_stopped(
    tmp_path: Path, generators: Path, number: signal.Signals
) -> None:
    source = write(tmp_path / "in.jsonl", *({"prompt": f"slow {n}"} for n in range(60)))

    process = start(tmp_path, generators, source)
    wait_for(tmp_path / "out.jsonl.checkpoint-wal")
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    was_there = (tmp_path / "out.jsonl").exists()
    again = start(tmp_path, generators, source)
    out, _ = again.communicate(timeout=60)

    assert not was_there
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in err
        assert "Traceback" not in err
    assert again.returncode == 0
    assert "of them kept from before" in out
    assert [said(line) for line in read(tmp_path / "out.jsonl")] == [
        f"1 SLOW {n}" for n in range(60)
    ]
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal_a_bar_shows_how_far_it_is(tmp_path: Path, generators: Path) -> None:
    prompts = [{"prompt": f"slow {n}"} for n in range(30)]
    source = write(tmp_path / "in.jsonl", *prompts, {"prompt": "bad"})
    command = [*BATCH, source, "-o", tmp_path / "out.jsonl", "--import", generators]

    child = pexpect.spawn(command[0], [str(part) for part in command[1:]], encoding="utf-8")
    child.expect(r"\d+ of 31")
    child.expect(r"tokens/s, 1 failed, [\d.]+ s left")
    child.expect("31 items: 30 answered; 1 failed")
    child.expect(pexpect.EOF)
    child.close()

    assert child.exitstatus == 4


def test_elsewhere_a_line_now_and_then_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tally = Tally()
    with Display(tally, 10_000) as display:
        for second in range(70):
            now = float(second)
            tally.failures["RateLimitError"] += 50
            display.update()

    assert capsys.readouterr().err.splitlines() == [
        "1,550 of 10,000: 51.7/s, 1,550 failed, 2 min 44 s left",
        "3,050 of 10,000: 50.8/s, 3,050 failed, 2 min 17 s left",
    ]


# -- Counting ----------------------------------------------------------------------------


def test_a_histogram_knows_its_quantiles_to_five_percent() -> None:
    seen = Histogram()
    for number in range(1, 1001):
        seen.add(number / 100)

    assert seen.quantile(0.5) == pytest.approx(5.0, rel=0.06)
    assert seen.quantile(0.95) == pytest.approx(9.5, rel=0.06)
    assert seen.quantile(1.0) == pytest.approx(10.0, rel=0.06)
    assert sum(count for _, count in seen.bars(20)) == 1000
    assert Histogram().quantile(0.5) == 0.0
    assert Histogram().bars(20) == []


def test_a_timeline_keeps_its_size_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tally = Tally()

    class Event:
        duration_s = 0.1
        usage = None

    for second in range(1000):
        now = float(second)
        tally.rigging_request_finished(Event())  # type: ignore[arg-type]

    timeline = tally.timeline
    width = timeline[1][0]
    assert len(timeline) <= 120
    assert sum(rate * width for _, rate in timeline) == pytest.approx(1000)
