"""The grammar: the table of cases, the laws, and what is said about bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rigging as rg
from rigging.error import InvalidIdentifierError
from rigging.identifier import (
    Identifier,
    decode_any,
    decode_list,
    decode_text,
    encode_any,
    encode_list,
    encode_text,
)
from tests.core.providers import AllKinds, Colour, LiteLLM, Nested, Size, Transformers

CASES = json.loads((Path(__file__).parent / "identifier_cases.json").read_text("utf-8"))

# No lone surrogates: they are no text that any field could hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# Text made of what the grammar itself is made of finds more.
HARD_TEXT = st.text(st.sampled_from(list(",;=!:%25Cc \n\tnul{}[]\"'ab\u00e9")), max_size=12)
ANY_TEXT = TEXT | HARD_TEXT
PROVIDER = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
DISTRIBUTION = st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,4}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
INTEGER = st.integers(-(10**20), 10**20)
EXTRA_NAME = ANY_TEXT.filter(lambda name: name and name not in rg.GenerateParams.model_fields)

PARAMS = st.builds(
    rg.GenerateParams,
    temperature=st.none() | st.floats(0, 1e6),
    max_tokens=st.none() | st.integers(1, 10**9),
    top_p=st.none() | st.floats(0, 1),
    stop=st.none() | st.lists(ANY_TEXT, max_size=4),
    presence_penalty=st.none() | NUMBER,
    api_base=st.none() | ANY_TEXT,
    timeout=st.none() | st.floats(1e-9, 1e9),
    seed=st.none() | INTEGER,
    tools=st.none() | st.lists(st.dictionaries(ANY_TEXT, JSON, max_size=2), max_size=2),
    tool_choice=st.none() | ANY_TEXT | st.dictionaries(ANY_TEXT, JSON, max_size=2),
    parallel_tool_calls=st.none() | st.booleans(),
    modalities=st.none() | st.lists(ANY_TEXT, max_size=2),
    audio=st.none() | st.dictionaries(ANY_TEXT, JSON, max_size=2),
    extra=st.dictionaries(EXTRA_NAME, JSON, max_size=3),
)
ALL_KINDS = st.builds(
    AllKinds,
    model=ANY_TEXT.filter(bool),
    params=PARAMS,
    text=ANY_TEXT,
    maybe=st.none() | ANY_TEXT,
    maybe_not=st.none() | ANY_TEXT,
    flag=st.booleans(),
    number=INTEGER,
    ratio=st.floats(allow_nan=False),
    choice=st.sampled_from(["a", "b", "null"]),
    level=st.sampled_from([1, 2]),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(Size),
    maybe_colour=st.none() | st.sampled_from(Colour),
    colours=st.lists(st.sampled_from(Colour), max_size=2),
    path=ANY_TEXT.map(Path),
    name=st.uuids(),
    texts=st.lists(ANY_TEXT, max_size=4),
    numbers=st.lists(INTEGER, max_size=3).map(tuple),
    maybe_texts=st.none() | st.lists(ANY_TEXT, max_size=3),
    table=st.dictionaries(ANY_TEXT, JSON, max_size=3),
    rows=st.lists(st.lists(INTEGER, max_size=2), max_size=2),
    nested=st.builds(Nested, name=ANY_TEXT, numbers=st.lists(INTEGER, max_size=2)),
    either=st.none() | INTEGER | ANY_TEXT,
    anything=JSON,
    seed=st.none() | INTEGER,
)


# -- The table ---------------------------------------------------------------------------


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize("case", CASES["accepted"], ids=lambda case: case["in"])
def test_accepted_string_means_what_the_table_says(case: dict[str, Any]) -> None:
    generator = rg.get_generator(case["in"])

    assert generator.model == case["model"]
    assert generator.api_key == case.get("api_key")
    assert generator.params == rg.GenerateParams(**case.get("params", {}))
    for name, value in case.get("generator", {}).items():
        assert getattr(generator, name) == value
    assert generator.to_identifier() == case["canonical"]
    assert rg.get_generator(case["canonical"]).to_identifier() == case["canonical"]
    assert Identifier.parse(case["canonical"]).provider == case["provider"]


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize("case", CASES["refused"], ids=lambda case: case["in"] or "empty")
def test_refused_string_is_an_error_that_says_why(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        rg.get_generator(case["in"])

    error = caught.value
    said = f"{error} {error.hint}".lower()
    # The table gives the reason in a few words: the telling ones are in the text.
    telling = {word.strip("?:;.'\"").lower() for word in case["why"].split() if len(word) > 4}
    assert telling, case
    assert {word for word in telling if word in said}, f"{case['why']!r} is not told by {said!r}"
    assert "^" in str(error)
    assert 0 <= error.position <= len(error.identifier)


# -- Laws --------------------------------------------------------------------------------


IDENTIFIERS = st.builds(
    lambda model, provider, distribution, options: Identifier(
        model, provider, distribution if provider else None, options
    ),
    ANY_TEXT.filter(bool),
    st.none() | PROVIDER,
    st.none() | DISTRIBUTION,
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
        | st.builds("{}.{}".format, st.sampled_from(["extra", "table"]), EXTRA_NAME),
        ANY_TEXT.map(encode_text),
        max_size=3,
    ),
)


@given(IDENTIFIERS)
def test_parsing_undoes_formatting(identifier: Identifier) -> None:
    assert Identifier.parse(identifier.format()) == identifier


@given(IDENTIFIERS)
def test_formatting_undoes_parsing_of_canonical_text(identifier: Identifier) -> None:
    text = identifier.format()
    assert Identifier.parse(text).format() == text


@given(ANY_TEXT)
@example("null")
@example("%2C%")
@example(" ")
def test_text_survives(text: str) -> None:
    assert decode_text(encode_text(text)) == text


@given(st.lists(ANY_TEXT, max_size=4))
@example([""])
@example(["base64:W10="])
@example(["null"])
def test_lists_survive(items: list[str]) -> None:
    assert decode_list(encode_list(items)) == items


@given(JSON)
@example("true")
@example("base64:W10=")
@example(None)
@example("null")
def test_json_survives(value: object) -> None:
    assert decode_any(encode_any(value)) == value


@given(ALL_KINDS)
@settings(max_examples=60)
def test_a_generator_survives_whatever_its_fields_hold(generator: AllKinds) -> None:
    with rg.register_generator("all-kinds", AllKinds):
        identifier = generator.to_identifier()
        again = rg.get_generator(identifier)

        assert again == generator
        assert again.to_identifier() == identifier


@given(st.text(max_size=40) | ANY_TEXT)
@settings(max_examples=500)
def test_no_string_raises_anything_but_invalid_identifier(text: str) -> None:
    try:
        identifier = Identifier.parse(text)
    except InvalidIdentifierError as error:
        assert str(error)
    else:
        assert Identifier.parse(identifier.format()) == identifier


@given(
    st.lists(
        st.sampled_from(
            sorted(
                (AllKinds.model_fields.keys() | rg.GenerateParams.model_fields.keys())
                - {"api_key", "token"}  # not written, so not led back
                | {"extra.a", "params.seed", "table.a", "table.%2C=", "text.a"}
            )
        ),
        max_size=3,
    ),
    st.lists(st.text(max_size=10) | ANY_TEXT, min_size=3, max_size=3),
)
@settings(max_examples=200)
def test_no_value_raises_anything_but_invalid_identifier(
    keys: list[str], values: list[str]
) -> None:
    options = "".join(f",{key}={value}" for key, value in zip(keys, values, strict=False))
    with rg.register_generator("all-kinds", AllKinds):
        try:
            generator = rg.get_generator(f"all-kinds!m{options}")
        except InvalidIdentifierError as error:
            assert str(error)
        else:
            assert rg.get_generator(generator.to_identifier()) == generator


def test_json_nested_too_deep_is_taken_for_text() -> None:
    assert decode_any("[" * 100_000) == "[" * 100_000


# -- What is read ------------------------------------------------------------------------


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize(
    ("identifier", "field", "value"),
    [
        pytest.param("m,stop= a", "stop", ["a"], id="blanks-around-a-value"),
        pytest.param("m,stop=%20a", "stop", [" a"], id="encoded-blank"),
        pytest.param("m,stop=a; b", "stop", ["a", " b"], id="blank-inside-a-list"),
        pytest.param("m,stop=", "stop", [], id="empty-list"),
        pytest.param("m,stop=base64:WyJhLGIiXQ==", "stop", ["a,b"], id="base64-list"),
        pytest.param("m,stop=!", "stop", ["!"], id="exclamation-mark-in-a-value"),
        pytest.param('m,audio={"voice":"x"%2C"n":1}', "audio", {"voice": "x", "n": 1}, id="json"),
        pytest.param("m,audio=base64:eyJhIjogMX0=", "audio", {"a": 1}, id="base64-json"),
        pytest.param("m,tool_choice=auto", "tool_choice", "auto", id="text-or-json-text"),
        pytest.param("m,tool_choice={}", "tool_choice", {}, id="text-or-json-json"),
        pytest.param("m,temperature=null", "temperature", None, id="null"),
        pytest.param("m,params.seed=3", "seed", 3, id="full-name-of-a-parameter"),
        pytest.param("m,parallel_tool_calls=True", "parallel_tool_calls", True, id="python-bool"),
    ],
)
def test_value_is_read_as_its_field_needs_it(identifier: str, field: str, value: object) -> None:
    assert getattr(rg.get_generator(identifier).params, field) == value


@pytest.mark.usefixtures("providers")
def test_a_field_may_be_given_by_its_alias() -> None:
    generator = rg.get_generator("transformers!m,torch_dtype=bfloat16")

    assert isinstance(generator, Transformers)
    assert generator.dtype == "bfloat16"
    assert generator.to_identifier() == "transformers!m,dtype=bfloat16"


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize(
    ("options", "value"),
    [
        pytest.param("model_kwargs.a=1", {"a": 1}, id="json"),
        pytest.param("model_kwargs.a=bob,model_kwargs.b=true", {"a": "bob", "b": True}, id="two"),
        pytest.param("model_kwargs.a=null", {"a": None}, id="null"),
        pytest.param('model_kwargs.a={"b":[1%2C2]}', {"a": {"b": [1, 2]}}, id="nested"),
        pytest.param("model_kwargs.a.b=1", {"a.b": 1}, id="dot-in-the-name"),
        pytest.param("model_kwargs.a%3Db%2C=1", {"a=b,": 1}, id="encoded-name"),
        pytest.param('model_kwargs={"a":1%2C"b":2}', {"a": 1, "b": 2}, id="whole"),
        pytest.param("load_kwargs.a=1,model_kwargs.b=2", {"a": 1, "b": 2}, id="by-its-alias"),
    ],
)
def test_a_mapping_may_be_given_part_by_part(options: str, value: dict[str, Any]) -> None:
    generator = rg.get_generator(f"transformers!m,{options}")

    assert isinstance(generator, Transformers)
    assert generator.model_kwargs == value
    assert rg.get_generator(generator.to_identifier()) == generator


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param({"b": 1, "a": "x,y"}, "model_kwargs.a=x%2Cy,model_kwargs.b=1", id="parts"),
        pytest.param({" a=": 1}, "model_kwargs. a%3D=1", id="encoded-name"),
        pytest.param({"": 1, "a": 2}, 'model_kwargs={"":1%2C"a":2}', id="empty-name"),
        pytest.param({"token": "hunter2", "a": 1}, "model_kwargs.a=1", id="secret"),
        pytest.param({"a": {"password": "hunter2", "b": 1}}, 'model_kwargs.a={"b":1}', id="inner"),
    ],
)
@pytest.mark.usefixtures("providers")
def test_a_mapping_is_written_part_by_part(value: dict[str, Any], written: str) -> None:
    generator = Transformers(model="m", model_kwargs=value)

    assert generator.to_identifier() == f"transformers!m,{written}"
    assert rg.get_generator(generator.to_identifier()).to_identifier() == generator.to_identifier()


@pytest.mark.usefixtures("providers")
def test_a_mapping_of_secrets_alone_is_not_written() -> None:
    generator = rg.get_generator("transformers!m,model_kwargs.token=hunter2")

    assert isinstance(generator, Transformers)
    assert generator.model_kwargs == {"token": "hunter2"}
    assert generator.to_identifier() == "transformers!m"


def test_a_mapping_that_was_emptied_is_written_so() -> None:
    class Full(rg.Generator):
        table: dict[str, Any] = {"a": 1}

    with rg.register_generator("full", Full):
        assert Full(model="m", table={}).to_identifier() == "full!m,table={}"
        assert Full(model="m", table={"b": 1}).to_identifier() == "full!m,table.b=1"
        assert rg.get_generator("full!m,table={}") == Full(model="m", table={})


@pytest.mark.parametrize(
    ("options", "table", "written"),
    [
        pytest.param("table.b=./b,table.a=1", {"a": "1", "b": "./b"}, "table.a=1,table.b=./b"),
        pytest.param("table.a=true", {"a": "true"}, "table.a=true"),
        pytest.param('table.a=["x"%2C null ]', {"a": '["x", null ]'}, 'table.a=["x"%2C null ]'),
        pytest.param("table.a=base64:MQ==", {"a": "base64:MQ=="}, "table.a=base64:MQ=="),
        pytest.param("table.a=%20x%2541", {"a": " x%41"}, "table.a=%20x%2541"),
        pytest.param('table={"a":"1"}', {"a": "1"}, "table.a=1"),
        pytest.param("table.token=x,table.a=y", {"token": "x", "a": "y"}, "table.a=y"),
    ],
    ids=["two", "bool", "json", "base64", "encoded", "whole", "secret"],
)
def test_the_parts_of_a_mapping_to_texts_are_texts(
    options: str, table: dict[str, str], written: str
) -> None:
    class Texts(rg.Generator):
        table: dict[str, str] = {}

    with rg.register_generator("texts", Texts):
        generator = rg.get_generator(f"texts!m,{options}")

        assert isinstance(generator, Texts)
        assert generator.table == table
        assert generator.to_identifier() == f"texts!m,{written}"
        assert rg.get_generator(f"texts!m,{written}").to_identifier() == f"texts!m,{written}"


def test_a_field_of_the_class_hides_the_parameter_of_its_name() -> None:
    with rg.register_generator("all-kinds", AllKinds):
        generator = rg.get_generator("all-kinds!m,seed=1,params.seed=2")

        assert isinstance(generator, AllKinds)
        assert (generator.seed, generator.params.seed) == (1, 2)
        assert generator.to_identifier() == "all-kinds!m,seed=1,params.seed=2"


def test_distribution_is_normalised_and_provider_lower_cased() -> None:
    identifier = Identifier.parse("Acme.Rigging_Things:ACME!m")

    assert (identifier.distribution, identifier.provider) == ("acme-rigging-things", "acme")


@pytest.mark.usefixtures("providers")
def test_params_argument_overrides_the_identifier() -> None:
    generator = rg.get_generator(
        "m,temperature=1,seed=2", params=rg.GenerateParams(temperature=0.25)
    )

    assert generator.params == rg.GenerateParams(temperature=0.25, seed=2)


@pytest.mark.usefixtures("providers")
def test_default_provider_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGGING_DEFAULT_PROVIDER", "VLLM")
    assert rg.get_generator("m").to_identifier() == "vllm!m"


def test_default_provider_that_is_no_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGGING_DEFAULT_PROVIDER", "no name")
    with pytest.raises(rg.error.InvalidGeneratorError, match="RIGGING_DEFAULT_PROVIDER"):
        rg.get_generator("m")


# -- What is written ---------------------------------------------------------------------


@pytest.mark.usefixtures("providers")
def test_short_identifier_stops_after_the_model() -> None:
    generator = rg.get_generator("m,temperature=1,max_connections=3")

    assert generator.to_identifier(short=True) == "litellm!m"
    assert rg.get_identifier(generator, short=True) == "litellm!m"


@pytest.mark.usefixtures("providers")
def test_params_given_to_get_identifier_override_the_generators() -> None:
    generator = rg.get_generator("m,temperature=1,extra.user=bob")

    assert rg.get_identifier(generator, rg.GenerateParams(temperature=0.5)) == (
        "litellm!m,temperature=0.5,extra.user=bob"
    )
    assert generator.params.extra == {"user": "bob"}


@pytest.mark.usefixtures("providers")
def test_order_of_keys_does_not_depend_on_the_order_given() -> None:
    one = rg.get_generator("m,extra.b=1,seed=2,extra.a=1,temperature=1,max_connections=3")
    two = rg.get_generator("m,max_connections=3,temperature=1,extra.a=1,seed=2,extra.b=1")

    assert one.to_identifier() == two.to_identifier()


def test_unregistered_class_has_no_identifier_and_is_told_how_to_get_one() -> None:
    with pytest.raises(rg.error.UnregisteredGeneratorError, match=r"register_generator\('litellm'"):
        LiteLLM(model="m").to_identifier()


def test_secret_field_is_never_written() -> None:
    with rg.register_generator("all-kinds", AllKinds):
        generator = rg.get_generator("all-kinds!m,token=hunter2,api_key=sk-1")

        assert isinstance(generator, AllKinds)
        assert generator.token is not None
        assert generator.token.get_secret_value() == "hunter2"
        assert generator.to_identifier() == "all-kinds!m"


def test_value_that_is_no_json_cannot_be_written() -> None:
    with rg.register_generator("all-kinds", AllKinds):
        generator = AllKinds(model="m", anything=object())
        with pytest.raises(rg.error.InvalidGeneratorError, match="cannot be written"):
            generator.to_identifier()


# -- What is refused ---------------------------------------------------------------------


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize(
    ("identifier", "reason", "marked"),
    [
        ("m,temprature=1", "unknown key 'temprature'; did you mean 'temperature'", "temprature"),
        ("m,seed=1,temperature=hot", "temperature: expected a number, got 'hot'", "hot"),
        ("m,max_connections=-1", "max_connections: expected greater than or equal to 0", "-1"),
        ("m,params.model=1", "unknown key 'params.model'", "params.model"),
        ("m,extra=1", "extra are given key by key", "extra"),
        ("m,3x=1", "not a key", "3x"),
        ("m,stop=%FF", "stop: %FF is not UTF-8", "%FF"),
        ("m%FF", "model: %FF is not UTF-8", "m%FF"),
        ("m,extra.%FF=1", "key: %FF is not UTF-8", "extra.%FF"),
        ("m,extra.seed=1", "extra holds 'seed'", "1"),
        ("m,stop=base64:e30=", "stop: the JSON behind base64: is not a list", "base64:e30="),
        ("m,audio=base64:e", "audio: not base64 of JSON", "base64:e"),
        ("m,audio=loud", "audio: expected a mapping, got 'loud'", "loud"),
        ("transformers!m,dtype=a,torch_dtype=b", "give the same field", "torch_dtype"),
        (
            "transformers!m,model_kwargs={},model_kwargs.a=1",
            "give the same field",
            "model_kwargs.a",
        ),
        ("transformers!m,model_kwargs.a=1,model_kwargs={}", "give the same field", "model_kwargs="),
        ("transformers!m,model_kwargs.a=1,load_kwargs.a=2", "give the same field", "load_kwargs.a"),
        ("transformers!m,model_kwargs.=1", "not a key", "model_kwargs."),
        ("transformers!m,model_kwargs=x", "model_kwargs: expected a mapping, got 'x'", "x"),
        ("transformers!m,model_kwarg.a=1", "did you mean 'model_kwargs.a'?", "model_kwarg.a"),
        ("transformers!m,dtype.a=1", "part by part: model_kwargs.NAME, load_kwargs", "dtype.a"),
        ("m,audio.voice=x", "only these are given part by part: extra.NAME", "audio.voice"),
        ("-x:p!m", "what stands before the ':' is not a distribution's name", "-x"),
    ],
)
def test_error_points_at_the_fault(identifier: str, reason: str, marked: str) -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        rg.get_generator(identifier)

    error = caught.value
    assert reason in error.reason
    assert error.identifier[error.position :].startswith(marked)
    _, shown, caret, *_ = str(error).split("\n")
    assert shown[caret.index("^") :].startswith(marked)


@pytest.mark.usefixtures("providers")
def test_unknown_key_lists_the_valid_ones() -> None:
    with pytest.raises(InvalidIdentifierError, match=r"max_connections, min_delay.*extra\.NAME"):
        rg.get_generator("m,whatever=1")


def test_required_field_that_is_missing_is_named() -> None:
    class Needy(rg.Generator):
        needed: int

    with (
        rg.register_generator("needy", Needy),
        pytest.raises(InvalidIdentifierError, match="needed is required"),
    ):
        rg.get_generator("needy!m")


def test_something_else_than_text_is_refused() -> None:
    with pytest.raises(InvalidIdentifierError, match="expected a str, got int"):
        rg.get_generator(3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("providers")
@pytest.mark.parametrize(
    "identifier",
    [
        "m,api_key=hunter2,temperature=hot",
        "m,api_key=hunter2,api_key=hunter2",
        "m,api_kye=hunter2",
        "m,temprature=1,api_kye=hunter2",
        "m,seed=1,api_key=part,hunter2",
        "m,api_key=hunter2,",
        "bad name!m,api_key=hunter2",
        "m,extra.authorization=hunter2,extra.authorization=hunter2",
        "m,api_key=hunter2%FF",
        "m,api_key:hunter2",
        "m,api_key hunter2",
        "m,api_key%3Dhunter2",
        "m,temperature=1;api_key=hunter2",
        "bad name;api_key=hunter2!m",
        "litellm!m;api_key=hunter2,x",
    ],
)
def test_no_error_repeats_a_key(identifier: str) -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        rg.get_generator(identifier)

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_parsed_identifier_shows_no_value() -> None:
    assert "hunter2" not in repr(Identifier.parse("m,api_key=hunter2"))
    assert "hunter2" not in str(Identifier.parse("m,api_key=hunter2"))


@pytest.mark.usefixtures("providers")
def test_long_identifier_is_shown_around_the_fault() -> None:
    with pytest.raises(InvalidIdentifierError) as caught:
        rg.get_generator("m" * 500 + ",temprature=1")

    _, shown, caret, *_ = str(caught.value).split("\n")
    assert shown.startswith("  …mmm")
    assert len(shown) < 140
    assert shown[caret.index("^") :].startswith("temprature")
