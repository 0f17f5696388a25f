"""Chat templates: the model's own or a given one, and what they make of a conversation."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import GeneratedMessage, GenerateParams, Message
from rigging.error import BadRequestError, UnsupportedParameterWarning
from rigging_transformers import TransformersGenerator
from rigging_transformers._prompts import Layout, read_template
from tests.support.tiny_model import CHAT_TEMPLATE, make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transformers.conftest import Reference

SHORT = GenerateParams(max_tokens=2, temperature=0)
SYSTEM = Message("system", "Be brief.")
USER = Message("user", "Hi")
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
DROPPING = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
THINKING = PLAIN + "{% if enable_thinking is not defined or enable_thinking %}[think]{% endif %}"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}


def laid_out(reference: Reference, template: str, messages: list[Message], **options: Any) -> str:
    """Return the text that a model reads."""
    ids = Layout(reference.tokenizer, template).encode(messages, options.get("tools"))
    return str(reference.tokenizer.decode(ids))


def input_tokens(result: object) -> int:
    assert isinstance(result, GeneratedMessage), result
    assert result.usage is not None
    return result.usage.input_tokens


# -- Where the template comes from -------------------------------------------------------


def test_a_template_that_makes_nothing_is_refused(borrowing: TransformersGenerator) -> None:
    borrowing.chat_template = '{{ "" }}'

    with pytest.raises(BadRequestError, match="chat_template makes no text of the conversation"):
        asyncio.run(borrowing.chat("Hi").run())


def test_a_file_of_a_template_may_begin_with_a_mark_and_may_not_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("\ufeff{{ messages[0].content }}", encoding="utf-8")
    assert read_template(str(path)) == "{{ messages[0].content }}"

    path.write_text(" \n")
    with pytest.raises(BadRequestError, match="the file of chat_template is empty"):
        read_template(str(path))


def test_half_a_character_is_refused(borrowing: TransformersGenerator) -> None:
    for pipeline in (borrowing.chat("Hi \ud83d"), borrowing.complete("Hi \ud83d")):
        with pytest.raises(BadRequestError, match=r"half a character \(the surrogate U\+D83D\)"):
            asyncio.run(pipeline.run())


@pytest.mark.parametrize("kind", ["text", "file"])
def test_a_given_template_takes_the_place_of_the_models(
    reference: Reference, tmp_path: Path, kind: str
) -> None:
    template = PLAIN
    if kind == "file":
        file = tmp_path / "plain.jinja"
        file.write_text(PLAIN, encoding="utf-8")
        template = str(file)
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template=template
    )

    (result,) = asyncio.run(generator.generate_messages([[USER]], [SHORT]))

    assert input_tokens(result) == len(reference.tokenizer("[user]Hi")["input_ids"])
    # The tokenizer is the caller's.
    assert reference.tokenizer.chat_template == CHAT_TEMPLATE


def test_a_template_in_an_identifier_gives_a_model_that_has_none_one(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", chat_template=None)
    (tmp_path / "plain.jinja").write_text(PLAIN, encoding="utf-8")
    generator = rg.get_generator(f"transformers!{model},chat_template={tmp_path / 'plain.jinja'}")
    inline = TransformersGenerator(model=str(model), chat_template=PLAIN)

    assert rg.get_generator(inline.to_identifier()) == inline
    by_file = generator.chat("Hi").with_(SHORT).run_sync()
    by_text = inline.chat("Hi").with_(SHORT).run_sync()

    assert by_file.last.text == by_text.last.text
    generator.unload()
    inline.unload()


def test_another_template_loads_no_other_model(generator: TransformersGenerator) -> None:
    generator.load()
    own = generator._engine._own
    before = generator.chat("Hi").with_(SHORT).run_sync().usage

    generator.chat_template = "{{ messages[0].content }}"
    after = generator.chat("Hi").with_(SHORT).run_sync().usage

    assert generator._engine._own is own
    assert before is not None
    assert after is not None
    assert after.input_tokens < before.input_tokens


@pytest.mark.parametrize("template", ["", " \n"])
def test_an_empty_template_is_refused(reference: Reference, template: str) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template=template
    )

    with pytest.raises(BadRequestError, match=r"chat_template is empty: .*leave it out"):
        generator.load()


def test_a_template_in_a_file_that_is_not_there_fails_chats_only(reference: Reference) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template="./nowhere.jinja"
    )

    chats = asyncio.run(generator.generate_messages([[USER], [USER]], [SHORT] * 2))
    (text,) = asyncio.run(generator.generate_texts(["Hi"], [SHORT]))

    for chat in chats:
        assert isinstance(chat, BadRequestError)
        assert "chat_template is no Jinja text" in str(chat)
        assert "nowhere.jinja" in str(chat)
    assert not isinstance(text, BaseException)


def test_a_template_in_a_file_that_is_not_there_is_said_before_loading() -> None:
    generator = TransformersGenerator(model="org/nowhere", chat_template="nowhere.jinja")

    with pytest.raises(BadRequestError, match=r"no file that can be read: .*nowhere\.jinja"):
        generator.load()
    assert generator._engine._thread is None


@pytest.mark.parametrize(
    ("given", "whose"), [(True, "chat_template"), (False, "the model's chat template")]
)
def test_broken_jinja_is_called_so(reference: Reference, given: bool, whose: str) -> None:
    from transformers import AutoTokenizer

    broken = "{% for m in messages %}\n{{ m.content "
    tokenizer = AutoTokenizer.from_pretrained(reference.tokenizer.name_or_path)
    tokenizer.chat_template = CHAT_TEMPLATE if given else broken
    generator = TransformersGenerator.from_obj(
        reference.model, tokenizer, chat_template=broken if given else None
    )

    results = asyncio.run(generator.generate_messages([[USER], [SYSTEM, USER]], [SHORT] * 2))

    for result in results:
        assert isinstance(result, BadRequestError)
        assert str(result).startswith(f"{whose} is not valid Jinja (line 2): unexpected end")
        assert type(result.__cause__).__name__ == "TemplateSyntaxError"


# -- System messages ---------------------------------------------------------------------


@pytest.mark.parametrize("template", [REFUSING, DROPPING], ids=["refused", "dropped"])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([SYSTEM, USER], "[user]Be brief.\n\nHi", id="before-the-user"),
        pytest.param([SYSTEM], "[user]Be brief.", id="alone"),
        pytest.param(
            [SYSTEM, Message("system", "Be kind."), USER],
            "[user]Be brief.\n\nBe kind.\n\nHi",
            id="two",
        ),
        pytest.param(
            [USER, Message("assistant", "Ho"), SYSTEM, USER],
            "[user]Hi[assistant]Ho[user]Be brief.\n\nHi",
            id="later",
        ),
        pytest.param(
            [USER, Message("assistant", "Ho"), SYSTEM],
            "[user]Hi[assistant]Ho[user]Be brief.",
            id="last",
        ),
        pytest.param([USER], "[user]Hi", id="none"),
    ],
)
def test_what_the_system_says_goes_to_the_user_where_the_template_has_no_place_for_it(
    reference: Reference, template: str, messages: list[Message], expected: str
) -> None:
    assert laid_out(reference, template, messages) == expected


def test_a_template_with_a_place_for_it_gets_the_system_message(reference: Reference) -> None:
    assert laid_out(reference, PLAIN, [SYSTEM, USER]) == "[system]Be brief.[user]Hi"


def test_a_template_that_needs_a_system_message_gets_it(reference: Reference) -> None:
    needy = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    )

    assert laid_out(reference, needy, [SYSTEM, USER]) == "[system]Be brief.[user]Hi"


@pytest.mark.parametrize(
    ("template", "said"),
    [(REFUSING, "refuses system messages (no system)"), (DROPPING, "drops system messages")],
)
def test_it_is_logged_once_that_system_messages_move(
    reference: Reference, caplog: pytest.LogCaptureFixture, template: str, said: str
) -> None:
    caplog.set_level(logging.INFO, "rigging_transformers")
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template=template
    )

    results = asyncio.run(generator.generate_messages([[SYSTEM, USER]] * 3, [SHORT] * 3))

    expected = len(reference.tokenizer("[user]Be brief.\n\nHi")["input_ids"])
    assert [input_tokens(result) for result in results] == [expected] * 3
    (record,) = [r for r in caplog.records if r.name == "rigging_transformers._prompts"]
    assert record.levelno == logging.INFO
    assert record.message.startswith(f"chat_template {said}")


# -- What else a conversation holds ------------------------------------------------------


def test_parts_of_text_reach_the_template_as_one(reference: Reference) -> None:
    message = Message("user", ["Two ", "parts"])

    assert laid_out(reference, PLAIN, [message]) == "[user]Two parts"


def test_an_answer_at_the_end_is_followed_by_another(reference: Reference) -> None:
    messages = [USER, Message("assistant", "Ho")]

    assert laid_out(reference, CHAT_TEMPLATE, messages).endswith(
        "assistant\nHo<|end|>\n<|start|>assistant\n"
    )


def test_calls_and_their_results_reach_the_template(reference: Reference) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]"
        "{% for call in m.tool_calls or [] %}{{ call.id }} {{ call.function.name }}"
        "({{ call.function.arguments.city }}){% endfor %}"
        "{{ m.tool_call_id }}{{ m.content }}{% endfor %}"
    )
    call = {"id": "c1", "function": {"name": "look_up", "arguments": '{"city": "Paris"}'}}
    messages = [
        USER,
        Message("assistant", tool_calls=[call]),
        Message("tool", "sunny", tool_call_id="c1"),
    ]

    assert laid_out(reference, template, messages) == (
        "[user]Hi[assistant]c1 look_up(Paris)[tool]c1sunny"
    )


def test_a_call_that_is_no_json_reaches_the_template_as_it_is(reference: Reference) -> None:
    call = {"id": "c1", "function": {"name": "look_up", "arguments": "Paris!"}}
    template = "{{ messages[0].tool_calls[0].function.arguments }}"

    assert laid_out(reference, template, [Message("assistant", tool_calls=[call])]) == "Paris!"


def test_whether_tools_are_taken_is_the_given_templates_affair(reference: Reference) -> None:
    taking = "{% if tools %}{{ tools[0].function.name }}{% endif %}" + PLAIN
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template=taking
    )
    params = SHORT.merge_with(GenerateParams(tools=[TOOL]))

    assert laid_out(reference, taking, [USER], tools=[TOOL]) == "look_up[user]Hi"
    asyncio.run(generator.generate_messages([[USER]], [params]))  # a warning would be an error
    generator.chat_template = PLAIN
    with pytest.warns(UnsupportedParameterWarning, match="cannot honour 'tools'"):
        asyncio.run(generator.generate_messages([[USER]], [params]))


# -- Variables of templates --------------------------------------------------------------


def _with(variables: object) -> GenerateParams:
    return GenerateParams(max_tokens=2, temperature=0, extra={"chat_template_kwargs": variables})


def test_extra_sets_variables_of_the_template(reference: Reference) -> None:
    generator = TransformersGenerator.from_obj(
        reference.model, reference.tokenizer, chat_template=THINKING
    )
    params = [
        SHORT,
        _with({"enable_thinking": False}),
        _with({"enable_thinking": True, "unknown": [1]}),
        _with(None),
    ]

    results = asyncio.run(generator.generate_messages([[USER]] * 4, params))

    long, short = (
        len(reference.tokenizer(text)["input_ids"]) for text in ("[user]Hi[think]", "[user]Hi")
    )
    assert list(map(input_tokens, results)) == [long, short, long, long]


def test_variables_in_an_identifier_mean_nothing_to_texts(tiny_model: Path) -> None:
    options = 'extra.chat_template_kwargs={"enable_thinking":false},max_tokens=2'
    generator = rg.get_generator(f"transformers!{tiny_model},{options}")
    assert generator.params.extra == {"chat_template_kwargs": {"enable_thinking": False}}

    completion = generator.complete("One").run_sync()

    assert completion.usage is not None
    assert completion.usage.output_tokens == 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("enable_thinking", r'such as \{"enable_thinking": false\}; got str'),
        ({"tools": []}, "cannot set 'tools': it is no variable"),
        ({"tokenize": False}, "cannot set 'tokenize'"),
        ({1: 2}, "cannot set 1"),
    ],
    ids=str,
)
def test_what_is_no_variable_fails_its_own_request(
    borrowing: TransformersGenerator, given: object, reason: str
) -> None:
    params = [SHORT, _with(given)]

    fine, wrong = asyncio.run(borrowing.generate_messages([[USER]] * 2, params))

    assert isinstance(fine, GeneratedMessage)
    with pytest.raises(BadRequestError, match=f"extra.chat_template_kwargs .*{reason}"):
        raise wrong
