"""The tree of errors: drawn as it is, picklable, telling."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from rigging import error
from rigging.error import GenerationError, RiggingError, RiggingWarning

ERRORS = [
    cls
    for _, cls in inspect.getmembers(error, inspect.isclass)
    if issubclass(cls, (RiggingError, RiggingWarning))
]

EXAMPLES: list[RiggingError] = [
    error.InvalidIdentifierError("why", "m,x=…", 2, "hint"),
    error.InvalidParamsError("why", [("seed", "wrong")]),
    error.UnregisteredGeneratorError(int),
    error.UnknownProviderError("vlm", ["vllm"], detail="More."),
    error.AmbiguousProviderError("p", [("b", "2"), ("a", "1")]),
    error.MissingDependencyError("p", "why", "torch"),
    error.BrokenProviderError("p", "why"),
    error.IncompatibleProviderError("p", "why", 2, 1),
    *(
        cls("why", provider="p", model="m", status=418, retry_after=1.5)
        for cls in ERRORS
        if issubclass(cls, GenerationError)
    ),
]


def test_all_lists_every_error() -> None:
    assert sorted(error.__all__) == sorted(cls.__name__ for cls in ERRORS)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for indent, name, builtin in re.findall(
        r"^    ([ │├└─]*)(\w+)(?: \((\w+)\))?", error.__doc__ or "", re.MULTILINE
    ):
        depth = len(indent) // 4
        path[depth:] = [name]
        cls = getattr(error, name)
        drawn[name] = path[depth - 1] if depth else None
        if depth:
            assert cls.__bases__[0].__name__ == path[depth - 1]
        if builtin:
            assert builtin in [base.__name__ for base in cls.__mro__[1:]]
    assert sorted(drawn) == sorted(cls.__name__ for cls in ERRORS)


@pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: type(one).__name__)
def test_errors_pickle_with_their_facts_and_their_text(one: RiggingError) -> None:
    again = pickle.loads(pickle.dumps(one))

    assert type(again) is type(one)
    assert str(again) == str(one)
    assert again.__dict__ == one.__dict__


def test_a_note_survives_pickling() -> None:
    one = GenerationError("why")
    one.add_note("item 3 of 5")

    assert pickle.loads(pickle.dumps(one)).__notes__ == ["item 3 of 5"]


@pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: type(one).__name__)
def test_a_copy_has_the_facts_and_the_cause_and_no_traceback(one: RiggingError) -> None:
    try:
        raise one from KeyError("why")
    except RiggingError as raised:
        again = raised.copy()

    assert type(again) is type(one)
    assert str(again) == str(one)
    assert again.__dict__ == one.__dict__
    assert again.__cause__ is one.__cause__
    assert again.__traceback__ is None


def test_generation_error_says_where_and_what() -> None:
    one = error.RateLimitError(
        "slow down", provider="litellm", model="m", status=429, retry_after=2
    )

    assert str(one) == "slow down [litellm!m, status 429, retry after 2 s]"
    assert str(GenerationError("broken")) == "broken"
    assert str(GenerationError("broken", model="m")) == "broken [m]"


@pytest.mark.parametrize(
    ("cls", "retryable"),
    [
        (error.RateLimitError, True),
        (error.ProviderTimeoutError, True),
        (error.ProviderConnectionError, True),
        (error.ProviderServerError, True),
        (error.AuthenticationError, False),
        (error.BadRequestError, False),
        (error.ContextLengthError, False),
        (error.ResponseError, False),
    ],
)
def test_what_may_succeed_later_is_retryable(cls: type[GenerationError], retryable: bool) -> None:
    assert cls("why").retryable is retryable
    assert cls("why", retryable=not retryable).retryable is not retryable


def test_unknown_provider_names_the_nearest_and_what_is_there() -> None:
    text = str(error.UnknownProviderError("vlm", ["vllm", "acme"]))

    assert "provider 'vlm' is not installed (available: acme, vllm)" in text
    assert "Did you mean 'vllm'?" in text


def test_unknown_provider_without_any_other_says_what_to_do() -> None:
    assert "available: none" in str(error.UnknownProviderError("x"))
    assert "register_generator" in str(error.UnknownProviderError("x"))
