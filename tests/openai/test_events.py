"""Server-sent events, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigging_openai._events import Event, EventParser

LINES = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12
).map(str.encode)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


def read(*pieces: bytes) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.end()


def data(*pieces: bytes) -> list[bytes]:
    return [event.data for event in read(*pieces)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(b"data: a\n\ndata: b\n\n", [b"a", b"b"], id="two"),
        pytest.param(b"data:a\n\n", [b"a"], id="no-blank"),
        pytest.param(b"data:  a \n\n", [b" a "], id="one-blank-is-dropped"),
        pytest.param(b"data: a\ndata: b\n\n", [b"a\nb"], id="lines"),
        pytest.param(b"data\ndata\n\n", [b"\n"], id="no-colon"),
        pytest.param(b": ping\n\ndata: a\n: ping\n\n", [b"a"], id="comments"),
        pytest.param(b"id: 7\nretry: 9\nnothing: x\ndata: a\n\n", [b"a"], id="other-fields"),
        pytest.param(b"\n\n\ndata: a\n\n\n\n", [b"a"], id="blank-lines"),
        pytest.param(b"data: a\r\rdata: b\r\n\r\n", [b"a", b"b"], id="line-ends"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [b"a"], id="byte-order-mark"),
        pytest.param("data: é\u2028日\x85\n\n".encode(), ["é\u2028日\x85".encode()], id="utf-8"),
        pytest.param(b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"], id="no-end"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"event: x\n\n", [], id="no-data"),
    ],
)
def test_a_stream_is_read_however_it_is_cut(stream: bytes, events: list[bytes]) -> None:
    assert data(stream) == events
    assert data(*(stream[n : n + 1] for n in range(len(stream)))) == events


def test_an_event_has_a_name_that_the_next_one_has_not() -> None:
    assert read(b"event: error\ndata: a\n\ndata: b\n\n") == [
        Event(b"error", b"a"),
        Event(b"", b"b"),
    ]


@given(
    events=st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5),
    end=ENDS,
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_every_cut_of_a_stream_gives_the_same_events(
    events: list[list[bytes]], end: bytes, cuts: list[int]
) -> None:
    stream = b"".join(b"".join(b"data: " + line + end for line in lines) + end for lines in events)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[one:other] for one, other in itertools.pairwise(bounds)]

    assert data(*pieces) == [b"\n".join(lines) for lines in events]


@given(stream=st.binary(max_size=200), cut=st.integers(0, 200))
def test_any_bytes_are_read_alike_whole_and_cut(stream: bytes, cut: int) -> None:
    assert read(stream[:cut], stream[cut:]) == read(stream)
