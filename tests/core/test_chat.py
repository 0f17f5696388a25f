"""Chats and completions as values: JSON, going on, lists, and how they are shown."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path

import pytest

import rigging as rg
from rigging.error import InvalidGeneratorError, RateLimitError, RiggingError
from rigging.testing import EchoGenerator, ScriptedGenerator


def failed_chat() -> rg.Chat:
    scripted = ScriptedGenerator([RateLimitError("slow <down>", status=429)])
    return scripted.chat("Hi").run_sync(on_failed="include")


def test_json_brings_a_chat_back_with_its_generator() -> None:
    with rg.register_generator("echo", EchoGenerator):
        generator = rg.get_generator("echo!x,max_tokens=9")
        chat = generator.chat("Hi").with_(seed=1).meta(a=1).run_sync()

        again = rg.Chat.model_validate_json(chat.model_dump_json())
        pipeline = again.continue_("more")

    assert again == chat
    assert pipeline.generator == generator
    assert [message.text for message in pipeline.messages] == ["Hi", "Hi", "more"]
    assert (pipeline.params, pipeline.metadata) == (rg.GenerateParams(seed=1), {"a": 1})
    assert pipeline.run_sync().last.text == "more"


@pytest.mark.parametrize("kind", ["chat", "complete"])
def test_what_a_run_makes_is_what_the_constructor_would_make(kind: str) -> None:
    item = getattr(EchoGenerator(model="x"), kind)("Hi").with_(seed=1).run_sync()

    made = type(item)(**{name: getattr(item, name) for name in type(item).model_fields})

    assert made == item
    assert made.model_dump_json() == item.model_dump_json()
    assert made.model_fields_set == item.model_fields_set
    assert list(vars(made)) == list(vars(item)) == list(type(item).model_fields)
    assert pickle.loads(pickle.dumps(item)) == item


def test_chats_of_one_result_share_no_notes() -> None:
    result = rg.GeneratedMessage.from_text("Hello!", extra={"id": "a"})
    first, second = ScriptedGenerator([result, result]).chat("Hi").run_many_sync(2)

    first.extra["id"] = "b"

    assert (second.extra, result.extra) == ({"id": "a"}, {"id": "a"})


def test_a_chat_goes_on_with_the_pipeline_that_made_it() -> None:
    seen: list[rg.Chat] = []
    generator = EchoGenerator(model="x")
    chat = generator.chat("Hi").with_(seed=1).watch(seen.append).run_sync()

    went_on = chat.continue_("more").run_sync()
    forked = chat.fork("else").run_sync()
    restarted = chat.restart().run_sync()

    assert [message.text for message in went_on.all] == ["Hi", "Hi", "more", "more"]
    assert [message.text for message in forked.all] == ["Hi", "else", "else"]
    assert [message.text for message in restarted.all] == ["Hi", "Hi"]
    assert chat.continue_("more").generator is generator
    assert seen == [chat, went_on, forked, restarted]


def test_a_chat_that_does_not_know_its_generator_says_how_to_go_on() -> None:
    chat = EchoGenerator(model="x").chat("Hi").run_sync()  # registered nowhere
    again = rg.Chat.model_validate_json(chat.model_dump_json())

    with pytest.raises(InvalidGeneratorError, match=r"go on with `generator\.chat"):
        again.restart()


def test_a_completion_goes_on_too() -> None:
    with rg.register_generator("echo", EchoGenerator):
        generator = rg.get_generator("echo!x,max_tokens=1")
        completion = generator.complete("a b").with_(seed=1).meta(n=1).run_sync()
        again = rg.Completion.model_validate_json(completion.model_dump_json())

        assert completion.restart().run_sync().text == "a b"
        assert completion.continue_(" c").run_sync().text == "a ba c"
        assert completion.fork("!").text == "a b!"
        assert completion.restart().generator is generator
        assert again.continue_().text == "a ba"
        assert (again.restart().params, again.restart().metadata) == (completion.params, {"n": 1})


def test_a_notebook_shows_a_completion_and_runs_nothing_in_it() -> None:
    shown = EchoGenerator(model="x").complete("<b>").run_sync()._repr_html_()

    assert "<b>&lt;b&gt;</b>" in shown


def test_json_of_a_failed_chat_has_the_errors_text() -> None:
    chat = failed_chat()

    assert json.loads(chat.model_dump_json())["error"] == (
        "RateLimitError: slow <down> [status 429]"
    )
    again = rg.Chat.model_validate_json(chat.model_dump_json())
    assert again.failed
    assert isinstance(again.error, RiggingError)
    assert "slow <down>" in str(again.error)


def test_copies_have_notes_and_names_of_their_own() -> None:
    chat = EchoGenerator(model="x").chat("Hi").meta(a=1).run_sync()

    assert chat.meta(b=2).metadata == {"a": 1, "b": 2}
    assert chat.metadata == {"a": 1}
    assert chat.clone().uuid != chat.uuid
    assert chat.clone().all == chat.all
    assert chat.meta(b=2).continue_("more").messages[-1].text == "more"
    with pytest.raises(ValueError, match="frozen"):
        chat.metadata = {}


def test_a_chat_is_given_in_openais_format() -> None:
    chat = EchoGenerator(model="x").chat("Hi").run_sync()

    assert chat.to_openai() == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi"},
    ]


def test_a_notebook_shows_a_chat_as_a_table_and_runs_nothing_in_it() -> None:
    chat = EchoGenerator(model="x").chat("<script>alert(1)</script>").run_sync()

    shown = chat._repr_html_()
    assert shown.count("<tr>") == 2
    assert "<script>" not in shown
    assert "failed: slow &lt;down&gt;" in failed_chat()._repr_html_()


def test_lists_are_written_as_json_and_jsonl(tmp_path: Path) -> None:
    chats = EchoGenerator(model="x").chat().run_batch_sync(["a", "ü\nb"])
    path = tmp_path / "chats.jsonl"

    chats.to_jsonl(path)

    assert [rg.Chat.model_validate(one) for one in json.loads(chats.to_json())] == chats
    lines = path.read_text("utf-8").splitlines()
    assert [rg.Chat.model_validate_json(line) for line in lines] == chats


def test_lists_become_data_frames() -> None:
    frame = EchoGenerator(model="x").complete("").run_batch_sync(["a", "b"]).to_df()

    assert list(frame["generated"]) == ["a", "b"]
    assert {"text", "stop_reason", "usage", "error"} <= set(frame.columns)


def test_a_data_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)

    with pytest.raises(ImportError, match="pip install pandas"):
        rg.ChatList().to_df()


def test_parts_and_sums_of_lists_are_lists_of_the_kind() -> None:
    chats = EchoGenerator(model="x").chat("one two").run_many_sync(3)

    assert type(chats[:2]) is rg.ChatList
    assert (chats[:1] + chats[1:]).usage == chats.usage
    assert chats[:1] + chats[1:] == chats
    assert chats[0].last.text == "one two"


def test_a_list_of_many_has_a_short_repr() -> None:
    chats = EchoGenerator(model="x").chat("Hi").run_many_sync(50)

    assert repr(chats).startswith("ChatList[<Chat of 2 messages")
    assert repr(chats).endswith("… 47 more]")
    assert len(repr(chats)) < 500
    assert repr(rg.ChatList()) == "ChatList[]"


def test_an_empty_failed_chat_is_shown() -> None:
    assert "failed" in repr(failed_chat())
    completion = (
        ScriptedGenerator([RateLimitError("no")]).complete("Hi").run_sync(on_failed="include")
    )
    assert "failed, no" in repr(completion)
    assert completion.all == "Hi"


def test_usage_of_later_rounds_counts_where_it_is_known() -> None:
    usage = rg.Usage(input_tokens=1)
    replies = [rg.GeneratedMessage.from_text("a", usage=usage), rg.GeneratedMessage.from_text("b")]
    chat = ScriptedGenerator(replies).chat("Hi").until(lambda c: c.last.text == "a").run_sync()

    assert chat.usage == usage


def test_one_chat_may_go_on_in_many_tasks_at_once() -> None:
    chat = EchoGenerator(model="x").chat("Hi").run_sync()

    async def main() -> list[rg.Chat]:
        return await asyncio.gather(*(chat.continue_(str(n)).run() for n in range(20)))

    assert [one.last.text for one in asyncio.run(main())] == [str(n) for n in range(20)]
