from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rigging import (
    AudioPart,
    GeneratedMessage,
    GeneratedText,
    GenerateParams,
    ImagePart,
    Message,
    get_generator,
)
from rigging.error import (
    BadRequestError,
    ContextLengthError,
    InvalidGeneratorError,
    InvalidIdentifierError,
    InvalidMessageError,
    MissingDependencyError,
    ModelNotFoundError,
    ProviderConnectionError,
    ProviderServerError,
    UnsupportedParameterWarning,
)
from rigging_transformers import TransformersGenerator
from tests.support.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.transformers.conftest import Reference

SHORT = GenerateParams(max_tokens=2, temperature=0)
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


def with_template(reference: Reference, template: str | None) -> TransformersGenerator:
    """Wrap the tiny model with a tokenizer that has another chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference.tokenizer.name_or_path)
    tokenizer.chat_template = template
    return TransformersGenerator.from_obj(reference.model, tokenizer)


# -- The model ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["./nowhere", "/no/such/model", "~/nowhere-at-all", "C:\\nowhere", "missing.gguf"]
)
def test_a_path_to_nothing_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        TransformersGenerator(model=model).load()


@pytest.mark.parametrize("model", ["~no-such-user-51c7/model", "a" * 300, "nul\0byte"])
def test_what_cannot_be_a_path_fails_the_request_and_hangs_nobody(model: str) -> None:
    generator = TransformersGenerator(model=model)

    for _ in range(2):
        (result,) = asyncio.run(generator.generate_texts(["Hi"], [GenerateParams()]))
        assert isinstance(result, ModelNotFoundError)
        assert "not a path that can be read" in str(result)


def test_an_engine_that_cannot_begin_fails_the_request_and_hangs_nobody(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rigging_transformers import _loop

    def fail(_: object) -> bool:
        raise AttributeError("a model of another kind")

    monkeypatch.setattr(_loop, "model_rolls", fail)
    generator = TransformersGenerator.from_obj(reference.model, reference.tokenizer)

    for _ in range(2):
        (result,) = asyncio.run(generator.generate_texts(["Hi"], [GenerateParams()]))
        assert isinstance(result, ProviderServerError)
        assert "AttributeError: a model of another kind" in str(result)


def test_what_is_neither_path_nor_hub_id_is_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="no hub id either"):
        TransformersGenerator(model="not a model").load()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"")

    with pytest.raises(ModelNotFoundError, match=r"a directory or a \.gguf file"):
        TransformersGenerator(model=str(file)).load()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        pytest.param("config.json", "has no config.json", id="configuration"),
        pytest.param("tokenizer*", "has no tokenizer", id="tokenizer"),
        pytest.param("*.safetensors", "has no weights", id="weights"),
    ],
)
def test_a_directory_that_lacks_something_is_refused(
    tmp_path: Path, missing: str, message: str
) -> None:
    directory = make_tiny_model(tmp_path / "model")
    for file in directory.glob(missing):
        file.unlink()

    with pytest.raises(ModelNotFoundError, match=message):
        TransformersGenerator(model=str(directory)).load()


def test_a_directory_of_gguf_files_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"")

    with pytest.raises(ModelNotFoundError, match=r"Name the file itself, e\.g\. .*small\.gguf"):
        TransformersGenerator(model=str(tmp_path)).load()


def test_a_broken_file_is_an_error_with_transformers_own_as_its_cause(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "model")
    (directory / "config.json").write_text('{"model_type": "no_such_architecture"}')

    with pytest.raises(BadRequestError, match="transformers cannot load the model") as caught:
        TransformersGenerator(model=str(directory)).load()

    assert caught.value.__cause__ is not None
    assert (caught.value.provider, caught.value.model) == ("transformers", str(directory))


def test_a_hub_out_of_reach_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at import

    with pytest.raises(ProviderConnectionError, match="not in the local cache") as caught:
        TransformersGenerator(model="rigging-tests/not-there").load()

    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("field", ["load_in_8bit", "load_in_4bit"])
def test_quantising_without_bitsandbytes_says_what_to_install(
    tiny_model: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    with pytest.raises(MissingDependencyError, match=r"rigging-transformers\[quantization\]"):
        TransformersGenerator(model=str(tiny_model), **{field: True}).load()


def test_gguf_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "small.gguf").write_bytes(b"")

    with pytest.raises(MissingDependencyError, match=r"rigging-transformers\[gguf\]"):
        TransformersGenerator(model=str(tmp_path / "small.gguf")).load()


def test_a_missing_model_fails_the_call_and_not_the_generators_making() -> None:
    generator = TransformersGenerator(model="./nowhere")

    with pytest.raises(ModelNotFoundError, match="no such file"):
        asyncio.run(generator.chat("Hi").run())


# -- Fields ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"dtype": "flot32"}, "dtype: expected 'auto'", id="dtype"),
        pytest.param({"max_batch_size": 0}, "max_batch_size", id="max_batch_size"),
        pytest.param({"device": "cpu"}, "did you mean 'device_map'", id="unknown"),
        pytest.param({"load_in_8bit": True, "load_in_4bit": True}, "exclude each other", id="both"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidGeneratorError, match=message):
        TransformersGenerator(model="org/model", **fields)


def test_an_identifier_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(InvalidIdentifierError, match="torch_dtype"):
        get_generator("transformers!org/model,torch_dtyp=float32")


# -- Requests ----------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_fails_alone(borrowing: TransformersGenerator) -> None:
    long, fine = asyncio.run(borrowing.generate_texts(["word " * 300, "word"], [SHORT] * 2))

    assert isinstance(long, ContextLengthError)
    assert "the model's context 256" in str(long)
    assert isinstance(fine, GeneratedText)


def test_an_empty_text_fails_alone_where_the_model_cannot_begin(reference: Reference) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference.tokenizer.name_or_path)
    tokenizer.bos_token = None
    generator = TransformersGenerator.from_obj(reference.model, tokenizer)

    empty, fine = asyncio.run(generator.generate_texts(["", "word"], [SHORT] * 2))

    assert isinstance(empty, BadRequestError)
    assert "the prompt is empty" in str(empty)
    assert isinstance(fine, GeneratedText)


def test_an_empty_text_begins_with_the_models_first_token(
    borrowing: TransformersGenerator,
) -> None:
    (result,) = asyncio.run(borrowing.generate_texts([""], [SHORT]))

    assert isinstance(result, GeneratedText)
    assert result.usage is not None
    assert result.usage.input_tokens == 1


def test_an_empty_conversation_fails_alone(borrowing: TransformersGenerator) -> None:
    empty, fine = asyncio.run(
        borrowing.generate_messages([[], [Message("user", "Hi")]], [SHORT] * 2)
    )

    assert isinstance(empty, InvalidMessageError)
    assert "at least one message" in str(empty)
    assert isinstance(fine, GeneratedMessage)


def test_a_part_that_is_no_text_fails_alone(borrowing: TransformersGenerator) -> None:
    sound = Message("user", ["Listen: ", AudioPart.from_bytes(b"RIFF")])
    text = Message("user", ["Two ", "parts"])

    refused, fine = asyncio.run(borrowing.generate_messages([[sound], [text]], [SHORT] * 2))

    assert isinstance(refused, InvalidMessageError)
    assert "a user message holds a part of type 'input_audio'" in str(refused)
    assert isinstance(fine, GeneratedMessage)


def test_a_model_without_a_chat_template_says_what_to_do(reference: Reference) -> None:
    generator = with_template(reference, None)

    (result,) = asyncio.run(generator.generate_messages([[Message("user", "Hi")]], [SHORT]))
    (text,) = asyncio.run(generator.generate_texts(["Hi"], [SHORT]))

    assert isinstance(result, BadRequestError)
    assert "Give chat_template=" in str(result)
    assert isinstance(text, GeneratedText)


def test_a_template_that_refuses_the_conversation_fails_alone(reference: Reference) -> None:
    generator = with_template(
        reference,
        "{% if messages[0].role != 'user' %}{{ raise_exception('the user begins') }}{% endif %}"
        "{{ messages[0].content }}",
    )
    conversations = [[Message("assistant", "Well?")], [Message("user", "Hi")]]

    refused, fine = asyncio.run(generator.generate_messages(conversations, [SHORT] * 2))

    assert isinstance(refused, BadRequestError)
    assert "refuses the conversation: the user begins" in str(refused)
    assert refused.__cause__ is not None
    assert isinstance(fine, GeneratedMessage)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        pytest.param({"repetition_penalti": 1.1}, "did you mean 'repetition_penalty'", id="typo"),
        pytest.param({"max_new_tokens": 5}, "use max_tokens instead", id="ours"),
        pytest.param({"output_scores": True}, "text is all that comes back", id="output"),
        pytest.param({"no_repeat_ngram_size": "x"}, "generate.. refuses no_repeat", id="value"),
        pytest.param({"repetition_penalty": -1}, "expected float above 0", id="range"),
        pytest.param({"sequence_bias": "x"}, "generate.. refuses sequence_bias", id="theirs"),
    ],
)
def test_an_extra_that_generate_cannot_take_fails_alone(
    borrowing: TransformersGenerator, extra: dict[str, Any], message: str
) -> None:
    params = SHORT.merge_with(GenerateParams(extra=extra))

    refused, fine = asyncio.run(borrowing.generate_texts(["Hi", "Hi"], [params, SHORT]))

    assert isinstance(refused, BadRequestError)
    assert isinstance(fine, GeneratedText)
    with pytest.raises(BadRequestError, match=message):
        raise refused


def test_rows_that_fail_together_have_an_error_each(borrowing: TransformersGenerator) -> None:
    params = SHORT.merge_with(GenerateParams(extra={"sequence_bias": "x"}))

    first, second = asyncio.run(borrowing.generate_texts(["Hi", "Ho"], [params] * 2))

    assert isinstance(first, BadRequestError)
    assert isinstance(second, BadRequestError)
    assert first is not second
    assert first.__cause__ is second.__cause__ is not None


# -- A tokenizer that knows more tokens than the model -----------------------------------


@pytest.fixture
def larger(reference: Reference) -> Any:
    """The tiny model's tokenizer, for a token to be added."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference.tokenizer.name_or_path)


def test_padding_that_the_model_does_not_know_is_replaced(
    reference: Reference, larger: Any
) -> None:
    larger.add_special_tokens({"pad_token": "[PAD]"})
    generator = TransformersGenerator.from_obj(reference.model, larger)
    prompts = ["One", "The quick brown fox"]
    kinds = [SHORT, SHORT.merge_with(GenerateParams(extra={"remove_invalid_values": True}))]

    for params in kinds:
        results = asyncio.run(generator.generate_texts(prompts, [params] * 2))

        expected = [reference.new_tokens(prompt, max_new_tokens=2) for prompt in prompts]
        assert [str(result) for result in results] == [reference.text(own) for own in expected]


@pytest.mark.parametrize("id_", [-1, 384])
def test_padding_that_is_no_token_at_all_is_replaced(
    reference: Reference, larger: Any, monkeypatch: pytest.MonkeyPatch, id_: int
) -> None:
    larger.pad_token = None
    monkeypatch.setattr(reference.model.generation_config, "pad_token_id", id_)
    generator = TransformersGenerator.from_obj(reference.model, larger)
    prompts = ["One", "The quick brown fox"]

    results = asyncio.run(generator.generate_texts(prompts, [SHORT] * 2))

    expected = [reference.new_tokens(p, max_new_tokens=2, pad_token_id=0) for p in prompts]
    assert [str(result) for result in results] == [reference.text(own) for own in expected]


def test_a_prompt_with_a_token_that_the_model_does_not_know_fails_alone(
    reference: Reference, larger: Any
) -> None:
    larger.add_tokens(["<new>"])
    generator = TransformersGenerator.from_obj(reference.model, larger)

    bad, fine = asyncio.run(generator.generate_texts(["The <new>", "The"], [SHORT] * 2))

    assert isinstance(bad, BadRequestError)
    assert "the token '<new>' (384), and the model has embeddings for 384" in str(bad)
    assert isinstance(fine, GeneratedText)


# -- What the backend cannot do ----------------------------------------------------------


def test_a_parameter_without_effect_is_warned_of_once(borrowing: TransformersGenerator) -> None:
    params = SHORT.merge_with(GenerateParams(api_base="http://nowhere", tool_choice="none"))

    async def main() -> None:
        await borrowing.generate_texts(["Hi", "Ho"], [params] * 2)
        await borrowing.generate_texts(["Hi"], [params])

    with pytest.warns(UnsupportedParameterWarning) as caught:
        asyncio.run(main())

    assert [str(w.message).partition(": ")[0] for w in caught] == [
        f"transformers!{borrowing.model} cannot honour 'api_base'",
        f"transformers!{borrowing.model} cannot honour 'tool_choice'",
    ]


def test_tools_go_to_a_template_that_takes_them(reference: Reference) -> None:
    generator = with_template(
        reference, "{% if tools %}{{ tools[0].function.name }}{% endif %}{{ messages[0].content }}"
    )
    params = SHORT.merge_with(GenerateParams(tools=TOOLS))

    with_tools, without = asyncio.run(
        generator.generate_messages([[Message("user", "Hi")]] * 2, [params, SHORT])
    )

    assert isinstance(with_tools, GeneratedMessage)
    assert isinstance(without, GeneratedMessage)
    assert with_tools.usage is not None
    assert without.usage is not None
    assert with_tools.usage.input_tokens > without.usage.input_tokens


def test_tools_are_warned_of_where_the_template_takes_none(
    borrowing: TransformersGenerator,
) -> None:
    with pytest.warns(UnsupportedParameterWarning, match="cannot honour 'tools'"):
        asyncio.run(borrowing.chat("Hi").with_(SHORT, tools=TOOLS).run())


def test_penalties_under_beam_search_are_warned_of(borrowing: TransformersGenerator) -> None:
    with pytest.warns(UnsupportedParameterWarning, match="cannot honour 'presence_penalty'"):
        asyncio.run(
            borrowing.complete("Hi")
            .with_(SHORT, presence_penalty=1.0, extra={"num_beams": 2})
            .run()
        )


def test_calls_in_a_conversation_reach_the_template_as_objects(reference: Reference) -> None:
    generator = with_template(
        reference,
        "{{ messages[0].tool_calls[0].function.arguments['city'] }}{{ messages[1].content }}",
    )
    call = {"id": "1", "function": {"name": "look_up", "arguments": '{"city": "Paris"}'}}
    conversation = [
        Message("assistant", tool_calls=[call]),
        Message("tool", "sunny", tool_call_id="1"),
    ]

    (result,) = asyncio.run(generator.generate_messages([conversation], [SHORT]))

    assert isinstance(result, GeneratedMessage)
    assert result.usage is not None
    expected = reference.tokenizer("Parissunny")["input_ids"]
    assert result.usage.input_tokens == len(expected)


@pytest.mark.parametrize("swap", [False, True])
def test_from_obj_refuses_what_is_no_model_or_no_tokenizer(
    borrowing: TransformersGenerator, swap: bool
) -> None:
    loaded = borrowing._engine._borrowed
    assert loaded is not None
    model, tokenizer = (loaded.tokenizer, loaded.model) if swap else (loaded.model, None)

    with pytest.raises(InvalidGeneratorError, match=r"takes a causal|takes the model's tokenizer"):
        TransformersGenerator.from_obj(model, tokenizer)


def test_a_conversation_that_is_no_text_is_refused_before_anything_is_loaded() -> None:
    generator = TransformersGenerator(model="org/nowhere")
    image = Message("user", [ImagePart.from_url("https://example.org/cat.png")])

    results = asyncio.run(
        generator.generate_messages([[image], []], [GenerateParams(), GenerateParams()])
    )

    assert [type(result).__name__ for result in results] == ["InvalidMessageError"] * 2
    assert generator._engine._thread is None
