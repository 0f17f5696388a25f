"""Streams: what is certain of a text, as soon as it is, for many at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigging import GeneratedMessage, GeneratedText, GenerateParams, Message
from rigging.error import (
    BadRequestError,
    InvalidMessageError,
    ModelNotFoundError,
    ProviderTimeoutError,
)
from rigging_transformers import TransformersGenerator
from rigging_transformers._loaded import Loaded
from rigging_transformers._pieces import Pieces
from rigging_transformers._row import Row, cut_at_stop
from rigging_transformers._sampling import plan
from tests.support.bytes_tokenizer import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transformers.conftest import Reference, Steps

GREEDY = GenerateParams(temperature=0, max_tokens=40)
LONG = GenerateParams(temperature=0, max_tokens=150)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
STOPS = st.lists(st.text(st.sampled_from("ab\n日é"), min_size=1, max_size=4), max_size=3)


async def read(
    generator: TransformersGenerator, prompt: str, params: GenerateParams
) -> tuple[list[str], GeneratedText]:
    pieces: list[str] = []
    async for piece in generator.stream_texts(prompt, params):
        if isinstance(piece, str):
            pieces.append(piece)
        else:
            return pieces, piece
    raise AssertionError("the stream ended without its result")


# -- Pieces of one text ------------------------------------------------------------------


def pieces_of(text: str, stops: list[str]) -> tuple[list[str], Row]:
    row = Row((), plan(GenerateParams(), {}), 10_000, {0}, stops, None, decode)
    pieces = Pieces(row)
    given = []
    for token in (*text.encode(), 0):
        row.add(token, now=0.0)
        given.append(pieces.next())
        if row.end:
            break
    return given, row


@given(text=TEXT | st.text(st.sampled_from("ab\n日é"), max_size=80), stops=STOPS)
def test_pieces_add_up_and_nothing_of_a_stop_text_is_among_them(
    text: str, stops: list[str]
) -> None:
    pieces, row = pieces_of(text, stops)

    assert "".join(pieces) == row.text
    assert not any(stop in "".join(pieces) for stop in stops)


@given(text=TEXT)
def test_characters_are_never_split(text: str) -> None:
    pieces, _ = pieces_of(text, [])

    # Each comes with the last of its bytes; one that means "no character" waits for the next.
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert [piece for piece in pieces if piece] == list(text)


@pytest.fixture(scope="module")
def fallback() -> tuple[Any, Callable[[str], list[int]]]:
    """A tokenizer that spells in bytes what it has no token for, and its encoding.

    Its decoder gives up a whole run of bytes if one of them is out of place.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"ab\n "]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    return tokenizer, lambda text: list(tokenizer(text)["input_ids"])


SPELLED = st.lists(
    st.text(st.sampled_from("ab\n "), max_size=3) | st.text(st.sampled_from("日é🎉"), min_size=4),
    max_size=4,
).map("".join)


@given(prompt=SPELLED, text=SPELLED, stops=STOPS)
def test_a_run_of_bytes_is_never_cut_within_a_character(
    fallback: tuple[Any, Callable[[str], list[int]]], prompt: str, text: str, stops: list[str]
) -> None:
    tokenizer, encode = fallback
    loaded = Loaded(None, tokenizer, "spelled")
    row = Row(
        encode(prompt), plan(GenerateParams(), {}), 10_000, {0}, stops, None, loaded.continuation
    )
    pieces = Pieces(row)
    given = []
    for token in (*encode(text), 0):
        row.add(token, now=0.0)
        given.append(pieces.next())
        if row.end:
            break

    # The first that is complete ends it, and the earliest of those then complete is cut.
    ended = min((text.find(s) + len(s) for s in stops if s in text), default=len(text))
    assert row.text == cut_at_stop(text[:ended], stops)
    assert "".join(given) == row.text


def test_what_could_be_a_stop_text_is_given_once_it_is_none() -> None:
    pieces, _ = pieces_of("a end of", ["end."])

    assert pieces == ["a", " ", "", "", "", "end ", "o", "f", ""]


# -- Streams of a model ------------------------------------------------------------------


def test_a_stream_gives_what_a_call_gives_piece_by_piece(
    borrowing: TransformersGenerator,
) -> None:
    (whole,) = asyncio.run(borrowing.generate_texts(["The quick"], [GREEDY]))

    pieces, result = asyncio.run(read(borrowing, "The quick", GREEDY))

    assert result == whole
    assert "".join(pieces) == result.text
    assert len(pieces) > 10


def test_a_chat_streams_too(borrowing: TransformersGenerator) -> None:
    conversation = [Message("user", "Hello")]
    (whole,) = asyncio.run(borrowing.generate_messages([conversation], [GREEDY]))

    async def main() -> list[str | GeneratedMessage]:
        return [piece async for piece in borrowing.stream_messages(conversation, GREEDY)]

    *pieces, last = asyncio.run(main())

    assert isinstance(last, GeneratedMessage)
    assert isinstance(whole, GeneratedMessage)
    assert "".join(map(str, pieces)) == str(last) == str(whole)
    assert (last.usage, last.stop_reason) == (whole.usage, whole.stop_reason)


def test_a_piece_comes_before_the_text_is_finished(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    async def main() -> int:
        async with aclosing(borrowing.stream_texts("The quick", LONG)) as pieces:
            async for _ in pieces:
                return steps.count
        return 0

    assert 0 < asyncio.run(main()) < 100


def test_many_streams_and_calls_share_one_batch(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    prompts = [f"number {n}" for n in range(8)]

    async def main() -> None:
        whole = asyncio.create_task(borrowing.generate_texts(prompts, [GREEDY] * 8))
        streams = await asyncio.gather(*(read(borrowing, p, GREEDY) for p in prompts))
        for result, (pieces, last) in zip(await whole, streams, strict=True):
            assert last == result
            assert "".join(pieces) == last.text

    asyncio.run(main())

    assert steps.count <= 40 + 4


def test_a_first_piece_does_not_wait_for_those_that_run(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    async def main() -> int:
        running = asyncio.create_task(borrowing.generate_texts(["Hello"] * 32, [LONG] * 32))
        await steps.reach(10)
        before = steps.count
        async with aclosing(borrowing.stream_texts("The quick", GREEDY)) as pieces:
            async for _ in pieces:
                break
        taken = steps.count - before
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return taken

    # Three is the aim; the loop's own delays come on top on a busy machine.
    assert asyncio.run(main()) <= 10


def test_stop_texts_are_cut_in_a_stream_as_in_a_call(
    borrowing: TransformersGenerator, reference: Reference
) -> None:
    whole = reference.text(reference.new_tokens("The quick", max_new_tokens=40))
    params = GREEDY.merge_with(GenerateParams(stop=[whole[9:13]]))

    pieces, result = asyncio.run(read(borrowing, "The quick", params))

    assert "".join(pieces) == result.text == whole[: whole.index(whole[9:13])]


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"temperature": 1.0, "seed": 3}, id="seeded"),
        pytest.param({"temperature": 0, "extra": {"renormalize_logits": True}}, id="generate"),
        pytest.param({"temperature": 0, "extra": {"num_beams": 2}}, id="beams"),
    ],
)
def test_what_generate_runs_streams_too(
    borrowing: TransformersGenerator, params: dict[str, object]
) -> None:
    own = GenerateParams(max_tokens=20, **params)  # type: ignore[arg-type]
    (whole,) = asyncio.run(borrowing.generate_texts(["The quick"], [own]))

    pieces, result = asyncio.run(read(borrowing, "The quick", own))

    assert result == whole
    assert "".join(pieces) == result.text


def test_closing_a_stream_frees_its_place_within_a_step(
    borrowing: TransformersGenerator, steps: Steps
) -> None:
    async def main() -> int:
        async with aclosing(borrowing.stream_texts("The quick", LONG)) as pieces:
            async for _ in pieces:
                break
        at_close = steps.count
        await borrowing.generate_texts(["Hello"], [GenerateParams(max_tokens=1)])
        await asyncio.sleep(0.1)
        return steps.count - at_close

    # What ran at that moment, and the one of the other call.
    assert asyncio.run(main()) <= 10


def test_a_stream_that_is_late_fails(borrowing: TransformersGenerator, steps: Steps) -> None:
    steps.then = lambda _: time.sleep(0.05)
    late = LONG.merge_with(GenerateParams(timeout=0.3))

    with pytest.raises(ProviderTimeoutError, match="no answer within"):
        asyncio.run(read(borrowing, "The quick", late))


def test_a_stream_that_cannot_begin_fails_at_once(borrowing: TransformersGenerator) -> None:
    bad = GREEDY.merge_with(GenerateParams(extra={"no_such_option": 1}))
    with pytest.raises(BadRequestError, match="no_such_option"):
        asyncio.run(read(borrowing, "The quick", bad))
    with pytest.raises(ModelNotFoundError, match="no such file"):
        asyncio.run(read(TransformersGenerator(model="./nowhere"), "The quick", GREEDY))

    async def empty() -> None:
        async for _ in borrowing.stream_messages([], GREEDY):
            pass

    with pytest.raises(InvalidMessageError, match="at least one message"):
        asyncio.run(empty())


def test_the_pipelines_stream(borrowing: TransformersGenerator) -> None:
    async def main() -> list[object]:
        return [piece async for piece in borrowing.chat("Hello").with_(GREEDY).stream()]

    *pieces, chat = asyncio.run(main())

    assert "".join(map(str, pieces)) == chat.last.text  # type: ignore[attr-defined]
    assert len(pieces) > 10
