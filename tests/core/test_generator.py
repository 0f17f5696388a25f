"""Generators as values: built, refused, compared, copied, and what their base does not do."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pydantic import ConfigDict

import rigging as rg
from rigging.error import InvalidGeneratorError, InvalidMessageError
from rigging.testing import EchoGenerator
from tests.core.providers import AllKinds, LiteLLM


class Custom(rg.Generator):
    """The example of "Writing a Generator"."""

    custom_field: bool

    async def generate_messages(
        self, messages: Sequence[Sequence[rg.Message]], params: Sequence[rg.GenerateParams]
    ) -> Sequence[rg.GeneratedMessage]:
        merged = [self.params.merge_with(own).to_dict() for own in params]
        return [
            rg.GeneratedMessage.from_text(f"{self.model} {self.custom_field} {own}")
            for own in merged
        ]


def test_a_subclass_with_fields_of_its_own_works() -> None:
    generator = Custom(model="foo", custom_field=True, params=rg.GenerateParams(seed=1))

    chat = asyncio.run(generator.chat("Hi").with_(temperature=0.5).run())

    assert chat.last.content == "foo True {'temperature': 0.5, 'seed': 1}"
    assert chat.generator_id is None


def test_a_registered_subclass_is_led_to_by_its_identifier() -> None:
    with rg.register_generator("custom", Custom):
        generator = rg.get_generator("custom!foo,custom_field=true")

        assert generator == Custom(model="foo", custom_field=True)
        assert asyncio.run(generator.chat("Hi").run()).generator_id == (
            "custom!foo,custom_field=true"
        )


def test_an_identifier_follows_whatever_changes() -> None:
    class Changing(EchoGenerator):
        note: str = ""
        names: list[str] = []
        nested: dict[str, Any] = {}

    generator = Changing(model="x", nested={"a": {"b": [1]}}, params=rg.GenerateParams(extra={}))
    with rg.register_generator("one", Changing):
        seen = [generator.to_identifier()]
        generator.note = "new"
        seen.append(generator.to_identifier())
        generator.names.append("added")
        seen.append(generator.to_identifier())
        generator.nested["a"]["b"].append(2)
        seen.append(generator.to_identifier())
        generator.params.extra["more"] = 1
        seen.append(generator.to_identifier())
        with rg.register_generator("two", Changing):
            seen.append(generator.to_identifier())
        assert generator.to_identifier() == seen[-2]
        # What takes the place of an equal value is another one that may change.
        generator.names = ["added"]
        generator.params = generator.params.merge_with()
        assert generator.to_identifier() == seen[-2]
        generator.names.append("once more")
        generator.params.extra["more"] = 2
        seen.append(generator.to_identifier())

    assert seen == [
        'one!x,nested.a={"b":[1]}',
        'one!x,note=new,nested.a={"b":[1]}',
        'one!x,note=new,names=added,nested.a={"b":[1]}',
        'one!x,note=new,names=added,nested.a={"b":[1%2C2]}',
        'one!x,note=new,names=added,nested.a={"b":[1%2C2]},extra.more=1',
        'two!x,note=new,names=added,nested.a={"b":[1%2C2]},extra.more=1',
        'one!x,note=new,names=added;once more,nested.a={"b":[1%2C2]},extra.more=2',
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"custom_field": True}, "Custom: model is required"),
        ({"model": "", "custom_field": True}, "model: .*at least 1 character"),
        ({"model": "m"}, "custom_field is required"),
        ({"model": "m", "custom_field": "perhaps"}, "custom_field: expected true or false"),
        ({"model": "m", "custom_field": 1, "custom_feld": 1}, "did you mean 'custom_field'"),
        ({"model": "m", "custom_field": 1, "params": {"temprature": 1}}, "params: .*'temperature'"),
        ({"model": "m", "custom_field": 1, "api_key": 3}, "api_key: expected text$"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidGeneratorError, match=reason):
        Custom(**fields)  # type: ignore[arg-type]


def test_an_assignment_that_does_not_fit_is_refused() -> None:
    generator = Custom(model="m", custom_field=True)

    with pytest.raises(InvalidGeneratorError, match="params: "):
        generator.params = 3  # type: ignore[assignment]
    generator.api_key = "k"

    assert generator.api_key == "k"


def test_generators_are_equal_but_for_the_key() -> None:
    assert LiteLLM(model="m", api_key="a") == LiteLLM(model="m", api_key="b")
    assert LiteLLM(model="m") != LiteLLM(model="n")
    assert LiteLLM(model="m") != AllKinds(model="m")
    assert LiteLLM(model="m") != "litellm!m"


def test_generators_pickle_without_their_key() -> None:
    generator = LiteLLM(model="m", api_key="hunter2", max_connections=3)

    pickled = pickle.dumps(generator)

    assert b"hunter2" not in pickled
    assert pickle.loads(pickled) == generator
    assert pickle.loads(pickled).api_key is None


def test_generators_are_equal_but_for_the_secrets_in_a_mapping() -> None:
    with_key = AllKinds(model="m", table={"hf_token": "hunter2", "rate": (1, 2)})

    assert with_key == AllKinds(model="m", table={"rate": (1, 2)})
    assert with_key != AllKinds(model="m", table={"rate": (1, 3)})


HALF = "\ud800"
HUGE = 10**5000


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"table": {HALF: 1}}, id="name"),
        pytest.param({"table": {"a": HALF}}, id="text"),
        pytest.param({"table": {"a": {HALF: 1}}}, id="name-inside"),
        pytest.param({"table": {"a": [HUGE]}}, id="integer"),
        pytest.param({"params": rg.GenerateParams(extra={HALF: 1})}, id="name-in-extra"),
        pytest.param({"params": rg.GenerateParams(extra={"a": HUGE})}, id="integer-in-extra"),
        pytest.param({"params": rg.GenerateParams(seed=HUGE)}, id="integer-in-params"),
        pytest.param({"params": rg.GenerateParams(stop=[HALF])}, id="text-in-params"),
    ],
)
def test_what_no_text_can_hold_has_no_identifier(fields: dict[str, Any]) -> None:
    with rg.register_generator("all-kinds", AllKinds):
        generator = AllKinds(model="m", **fields)
        with pytest.raises(InvalidGeneratorError, match="cannot be written as an identifier"):
            generator.to_identifier()


def test_a_copy_keeps_the_key() -> None:
    copied = LiteLLM(model="m", api_key="k").model_copy(update={"max_connections": 1})

    assert (copied.api_key, copied.max_connections) == ("k", 1)


def test_load_and_unload_return_the_generator() -> None:
    generator = LiteLLM(model="m")

    assert generator.load().unload().unload() is generator


def test_what_a_generator_does_not_implement_it_refuses() -> None:
    class OnlyTexts(rg.Generator):
        async def generate_texts(
            self, texts: Sequence[str], params: Sequence[rg.GenerateParams]
        ) -> Sequence[rg.GeneratedText]:
            return [rg.GeneratedText.from_text(text) for text in texts]

    with pytest.raises(NotImplementedError, match=r"OnlyTexts .*Use complete\(\)"):
        asyncio.run(OnlyTexts(model="m").chat("Hi").run())
    with pytest.raises(NotImplementedError, match=r"Custom .*Use chat\(\)"):
        asyncio.run(Custom(model="m", custom_field=True).complete("Hi").run())


def test_chat_refuses_what_is_no_conversation_before_anything_is_sent() -> None:
    generator = rg.testing.ScriptedGenerator(["never"])

    with pytest.raises(InvalidMessageError, match="got int"):
        generator.chat(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidMessageError, match="got bytes"):
        generator.complete(b"x")  # type: ignore[arg-type]
    with pytest.raises(InvalidMessageError, match="the conversation is empty"):
        asyncio.run(generator.chat().run())
    assert generator.calls == ()


def test_no_field_of_a_subclass_may_start_a_warning() -> None:
    class WithModelFields(rg.Generator):  # pydantic protects `model_` by default
        model_kwargs: dict[str, int] | None = None
        batch_size: int | None = 2

    generator = WithModelFields(model="m", model_kwargs={"a": 1})
    assert generator.batch_size == 2
    generator.batch_size = 3
    assert generator.batch_size == 3
    with pytest.raises(InvalidGeneratorError, match="batch_size: expected an integer"):
        generator.batch_size = "many"  # type: ignore[assignment]


def test_a_stream_ends_with_the_result_and_raises_its_failure() -> None:
    scripted = rg.testing.ScriptedGenerator(["a", "b", ValueError("broken")])
    hi = [rg.Message("user", "Hi")]

    async def run() -> list[object]:
        params = rg.GenerateParams()
        items = [item async for item in scripted.stream_messages(hi, params)]
        return items + [item async for item in scripted.stream_texts("Hi", params)]

    first, message, second, text = asyncio.run(run())
    assert (first, str(message), second, str(text)) == ("a", "a", "b", "b")
    assert isinstance(message, rg.GeneratedMessage)
    assert isinstance(text, rg.GeneratedText)
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: rg.testing.EchoGenerator(model="x").chat("Hi", {"seed": 1}),
        lambda: rg.testing.EchoGenerator(model="x").chat("Hi").with_({"seed": 1}),
        lambda: rg.testing.EchoGenerator(model="x").complete("Hi", 3),
    ],
)
def test_params_that_are_none_are_refused(misuse: Any) -> None:
    with pytest.raises(rg.error.InvalidParamsError, match="expected GenerateParams, got"):
        misuse()


# -- Keys beyond the fields --------------------------------------------------------------


class Open(EchoGenerator):
    model_config = ConfigDict(extra="allow")


@pytest.fixture
def open_generator() -> Iterator[type[Open]]:
    with rg.register_generator("open", Open):
        yield Open


@pytest.mark.parametrize(
    ("written", "value"),
    [
        pytest.param("32", 32, id="number"),
        pytest.param("false", False, id="boolean"),
        pytest.param("uni", "uni", id="text"),
        pytest.param('"32"', "32", id="text-that-reads-as-a-number"),
        pytest.param('{"a":[1%2C2]}', {"a": [1, 2]}, id="mapping"),
    ],
)
@pytest.mark.usefixtures("open_generator")
def test_a_class_that_takes_more_keys_reads_and_writes_them(written: str, value: object) -> None:
    identifier = f"open!m,block={written},temperature=0.5"

    generator = rg.get_generator(identifier)

    assert generator.model_extra == {"block": value}
    assert generator.params.temperature == 0.5
    assert generator.to_identifier() == identifier
    assert rg.get_generator(generator.to_identifier()) == generator
    assert rg.get_generator("open!m,temperature=0.5") != generator
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert copy.deepcopy(generator) == generator


@pytest.mark.usefixtures("open_generator")
def test_more_keys_are_names() -> None:
    with pytest.raises(rg.error.InvalidIdentifierError, match=r"unknown key 'params\.block'"):
        rg.get_generator("open!m,params.block=1")


@pytest.mark.usefixtures("open_generator")
def test_what_cannot_be_written_is_said() -> None:
    with pytest.raises(rg.error.InvalidGeneratorError, match="cannot be written as an identifier"):
        Open(model="m", block=object()).to_identifier()


@pytest.mark.usefixtures("open_generator")
def test_a_secret_among_more_keys_is_kept_and_shown_nowhere() -> None:
    generator = rg.get_generator("open!m,hf_token=hf_planted,block=1")

    assert generator.model_extra == {"hf_token": "hf_planted", "block": 1}
    shown = [
        repr(generator),
        str(generator),
        generator.to_identifier(),
        str(generator.model_dump()),
        generator.model_dump_json(),
        str(pickle.dumps(generator)),
    ]
    assert not any("hf_planted" in text for text in shown)
    assert all("block" in text for text in shown)
