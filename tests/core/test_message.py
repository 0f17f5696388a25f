"""Messages: what they are made of, what is refused, what is sent."""

from __future__ import annotations

import base64
import copy
import functools
import operator
import pickle
import random
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rigging as rg
from rigging.error import InvalidMessageError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PARTS = (
    st.builds(rg.TextPart, text=TEXT)
    | st.builds(rg.ImagePart.from_url, TEXT, detail=st.sampled_from(["auto", "low", "high"]))
    | st.builds(rg.AudioPart.from_bytes, st.binary(), transcript=st.none() | TEXT)
)
CALLS = st.builds(
    rg.ToolCall, id=TEXT, function=st.builds(rg.FunctionCall, name=TEXT, arguments=TEXT)
)
MESSAGES = st.builds(
    rg.Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT | st.lists(PARTS, max_size=3),
    tool_calls=st.lists(CALLS, max_size=2),
    tool_call_id=st.none() | TEXT,
    metadata=st.dictionaries(TEXT, TEXT | st.integers(), max_size=2),
)


@given(MESSAGES)
def test_json_brings_a_message_back(message: rg.Message) -> None:
    assert rg.Message.model_validate_json(message.model_dump_json()) == message


@given(MESSAGES)
def test_openai_format_is_read_back_and_changes_nothing(message: rg.Message) -> None:
    before = copy.deepcopy(message)

    sent = message.to_openai()

    assert message == before
    assert rg.Message.fit(sent).to_openai() == sent
    sent["content"] = "changed"
    assert message == before


@given(TEXT)
def test_text_is_kept_exactly_as_given(text: str) -> None:
    assert rg.Message("user", text).content == text
    assert rg.Message("user", text).to_openai()["content"] == text
    assert rg.Message("user", [text]).text == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Hi", [("user", "Hi")], id="str"),
        pytest.param({"role": "system", "content": "Be"}, [("system", "Be")], id="dict"),
        pytest.param(rg.Message("tool", "4"), [("tool", "4")], id="message"),
        pytest.param([], [], id="nothing"),
        pytest.param(
            ["a", {"role": "assistant", "content": "b"}, rg.Message("user", "c")],
            [("user", "a"), ("assistant", "b"), ("user", "c")],
            id="a-mixture",
        ),
        pytest.param(("a", "b"), [("user", "a"), ("user", "b")], id="tuple"),
    ],
)
def test_messages_are_made_of_what_users_have(value: Any, expected: list[tuple[str, str]]) -> None:
    made = rg.Message.fit_as_list(value)

    assert [(message.role, message.content) for message in made] == expected


def test_what_a_dict_says_none_of_is_left_out() -> None:
    message = rg.Message.fit({"role": "assistant", "content": "Hi", "refusal": None})

    assert message.to_openai() == {"role": "assistant", "content": "Hi"}
    with pytest.raises(InvalidMessageError, match="got bytes"):
        rg.Message.fit_as_list(b"Hi")  # type: ignore[arg-type]


def test_a_message_is_taken_as_it_is() -> None:
    message = rg.Message("user", "Hi")

    assert rg.Message.fit(message) is message


def test_no_content_is_empty_text_as_in_openais_format() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = rg.Message.fit({"role": "assistant", "content": None, "tool_calls": [call]})

    assert message.content == ""
    assert message.to_openai() == {"role": "assistant", "content": "", "tool_calls": [call]}


def test_parts_are_sent_in_openais_shape() -> None:
    message = rg.Message(
        "user",
        [
            "look",
            rg.ImagePart.from_bytes(PNG, detail="high"),
            rg.AudioPart.from_bytes(b"sound", format="mp3", transcript="said"),
        ],
    )

    assert message.to_openai()["content"] == [
        {"type": "text", "text": "look"},
        {
            "type": "image_url",
            "image_url": {
                "url": "data:image/png;base64," + base64.b64encode(PNG).decode(),
                "detail": "high",
            },
        },
        {"type": "input_audio", "input_audio": {"data": "c291bmQ=", "format": "mp3"}},
    ]
    assert message.text == "look"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_an_images_type_is_read_from_its_bytes(data: bytes, media_type: str) -> None:
    assert rg.ImagePart.from_bytes(data).image_url.url.startswith(f"data:{media_type};base64,")


def test_an_images_type_is_read_from_the_files_name_if_its_bytes_do_not_tell(
    tmp_path: Path,
) -> None:
    path = tmp_path / "drawing.svg"
    path.write_bytes(b"<svg/>")

    assert rg.ImagePart.from_file(path).image_url.url.startswith("data:image/svg+xml;base64,")


def test_an_image_of_unknown_type_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="give media_type"):
        rg.ImagePart.from_bytes(b"RIFF\x00\x00\x00\x00WAVE")


def test_sound_comes_back_as_bytes() -> None:
    assert rg.AudioPart.from_bytes(b"\x00\xff").bytes == b"\x00\xff"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            lambda: rg.Message("robot", "x"),  # type: ignore[arg-type]
            "role: expected 'system', 'user', 'assistant' or 'tool', got 'robot'",
            id="role",
        ),
        pytest.param(lambda: rg.Message(content="x"), "role is required", id="no-role"),
        pytest.param(
            lambda: rg.Message("user", 3),  # type: ignore[arg-type]
            "content: expected",
            id="content",
        ),
        pytest.param(
            lambda: rg.Message("user", b"x"),  # type: ignore[arg-type]
            "content: expected",
            id="bytes",
        ),
        pytest.param(
            lambda: rg.Message("user", [{"type": "video"}]), r"content\[0\]: .*video", id="part"
        ),
        pytest.param(
            lambda: rg.Message("user", [{"type": "text"}]), "text is required", id="part-field"
        ),
        pytest.param(
            lambda: rg.Message("user", "x", contents="y"),
            "unknown field 'contents'; did you mean 'content'",
            id="field",
        ),
        pytest.param(lambda: rg.Message.fit(3), "got int", id="int"),  # type: ignore[arg-type]
        pytest.param(
            lambda: rg.Message.fit({3: "x"}),  # type: ignore[dict-item]
            "a message is a str, a dict",
            id="dict-keys",
        ),
        pytest.param(lambda: rg.Message.fit({}), "role is required", id="empty-dict"),
        pytest.param(
            lambda: rg.Message.fit_as_list(["a", None]),  # type: ignore[list-item]
            "got NoneType",
            id="none-in-a-list",
        ),
    ],
)
def test_what_is_no_message_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(InvalidMessageError, match=reason):
        make()


def test_messages_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        rg.Message("user", "x").content = "y"


def test_equal_messages_hash_alike() -> None:
    message = rg.Message("user", "x", metadata={"a": 1})

    assert len({message, message.model_copy()}) == 1


def test_repr_does_not_hold_a_whole_image() -> None:
    message = rg.Message("user", [rg.ImagePart.from_bytes(PNG + bytes(10_000))])
    sound = rg.Message("user", [rg.AudioPart.from_bytes(bytes(10_000))])

    assert len(repr(message)) < 500
    assert len(repr(sound)) < 500


def test_ids_differ_in_a_process_that_was_forked() -> None:
    code = (
        "import os, rigging as rg\n"
        "r, w = os.pipe()\n"
        "rg.Message('user', 'x')\n"
        "if os.fork() == 0:\n"
        "    os.write(w, rg.Message('user', 'x').uuid.bytes)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(os.read(r, 16) != rg.Message('user', 'x').uuid.bytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"


def test_a_program_that_seeds_its_random_numbers_gets_new_ids_all_the_same() -> None:
    random.seed(1)
    first = rg.Message("user", "x").uuid
    random.seed(1)

    assert rg.Message("user", "x").uuid != first
    assert (first.version, first.variant) == (4, uuid.RFC_4122)


def test_ids_are_like_those_that_the_library_makes() -> None:
    ids = [rg.Message("user", "x").uuid for _ in range(1000)]

    assert {(one.version, one.variant) for one in ids} == {(4, uuid.RFC_4122)}
    assert [uuid.UUID(str(one)) for one in ids] == ids
    assert pickle.loads(pickle.dumps(ids)) == ids
    assert len(set(ids)) == 1000
    # Of the 128 bits, all but the six that say the version take both values.
    always, ever = (
        functools.reduce(operator.and_, map(int, ids)),
        functools.reduce(operator.or_, map(int, ids)),
    )
    assert (always ^ ever).bit_count() == 122
