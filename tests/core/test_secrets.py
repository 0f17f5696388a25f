"""A key is planted, and everything that a program shows or stores is searched for it."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field

import rigging as rg
from rigging.testing import EchoGenerator, ScriptedGenerator
from tests.core.providers import AllKinds

KEY = "sk-planted-9d2e77"


def shown_by(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(pickle.dumps(error))


def test_no_key_in_what_a_generator_and_its_results_show(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with rg.register_generator("echo", EchoGenerator):
        generator = rg.get_generator(f"echo!m,api_key={KEY},temperature=1")
        pipeline = generator.chat("Hi")
        chats = asyncio.run(pipeline.run_many(2))
        completion = asyncio.run(generator.complete("Hi").run())
        shown = [
            *(f"{thing!r}{thing!s}" for thing in (generator, pipeline, chats, completion)),
            *(
                f"{model.model_dump()}{model.model_dump_json()}"
                for model in (generator, *chats, completion)
            ),
            str(pickle.dumps(generator) + pickle.dumps(pipeline) + pickle.dumps(chats)),
            generator.to_identifier(),
            rg.get_identifier(generator, rg.GenerateParams(seed=1)),
            str(generator.model_json_schema()),
        ]

    assert generator.api_key == KEY
    assert KEY not in "".join(shown)
    assert KEY not in caplog.text
    assert KEY not in "".join(capfd.readouterr())


class Remote(rg.Generator):
    options: dict[str, Any] = Field(default_factory=dict)
    more: dict[str, Any] | None = None
    headers: dict[str, str] = Field(default_factory=dict)


HIDDEN = {"Authorization": KEY, "hf_token": KEY}
SECRETS: dict[str, dict[str, Any]] = {
    "options": {"options": {"deep": [HIDDEN], **HIDDEN, "kept": 1}},
    "more": {"more": {**HIDDEN, "kept": 1}},
    "headers": {"headers": {**HIDDEN, "kept": "1"}},
    "extra": {"params": rg.GenerateParams(extra={"deep": [HIDDEN], **HIDDEN, "kept": 1})},
}


@pytest.mark.parametrize("fields", SECRETS.values(), ids=SECRETS)
def test_no_secret_of_a_mapping_in_what_a_generator_shows(fields: dict[str, Any]) -> None:
    generator = Remote(model="m", **fields)
    with rg.register_generator("remote", Remote):
        shown = [
            f"{generator!r}{generator!s}",
            str(generator.model_dump()),
            generator.model_dump_json(),
            str(pickle.dumps(generator)),
            str(pickle.dumps(generator.chat("Hi"))),
            generator.to_identifier(),
        ]

    assert [KEY in text for text in shown] == [False] * len(shown)
    assert ["kept" in text for text in shown] == [True] * len(shown)
    assert KEY in str(vars(generator)) + str(generator.params.extra)
    assert KEY in str(vars(copy.deepcopy(generator))) + str(copy.copy(generator).params.extra)


def test_parameters_pickle_without_the_secrets_in_extra() -> None:
    params = rg.GenerateParams(temperature=1, extra={"api_key": KEY, "user": "bob"})

    assert pickle.loads(pickle.dumps(params)) == rg.GenerateParams(
        temperature=1, extra={"user": "bob"}
    )
    assert copy.deepcopy(params) == params


@pytest.mark.parametrize(
    "fail",
    [
        lambda: rg.get_generator(f"echo!m,api_key={KEY},temperature=hot"),
        lambda: rg.get_generator(f"echo!m,api_key={KEY},api_key={KEY}"),
        lambda: rg.get_generator(f"echo!m,api_kye={KEY}"),
        lambda: rg.get_generator(f"echo!m,api_key={KEY}%FF"),
        lambda: rg.get_generator(f"nowhere!m,api_key={KEY}"),
        lambda: rg.get_generator(f"all-kinds!m,table.token={KEY}%FF"),
        lambda: rg.get_generator(f"all-kinds!m,table.token={KEY},table={{}}"),
        lambda: rg.get_generator(f"all-kinds!m,table.token={KEY},number=x"),
        lambda: rg.get_generator(f"all-kinds!m,tabel.token={KEY}"),
        lambda: rg.get_generator(f"all-kinds!m,extra.token={KEY}%FF"),
        lambda: rg.get_generator(f"m,api_key={KEY}"),
        lambda: rg.get_generator(f"all-kinds!m,token={KEY},number=x"),
        lambda: EchoGenerator(model="m", api_key=KEY, temprature=1),  # type: ignore[call-arg]
        lambda: EchoGenerator(model=3, api_key=KEY),  # type: ignore[arg-type]
        lambda: EchoGenerator(model="m", api_key=[KEY]),  # type: ignore[arg-type]
        lambda: EchoGenerator(model="m", api_key=KEY).to_identifier(short=False),
        lambda: setattr(EchoGenerator(model="m"), "api_key", [KEY]),
        lambda: setattr(EchoGenerator(model="m", api_key=KEY), "params", 3),
        lambda: asyncio.run(ScriptedGenerator([], api_key=KEY).chat("Hi").run()),
        lambda: asyncio.run(EchoGenerator(model="m", api_key=KEY).chat().run()),
        lambda: asyncio.run(rg.Generator(model="m", api_key=KEY).chat("Hi").run()),
    ],
)
def test_no_key_in_what_an_error_shows(fail: Callable[[], object]) -> None:
    unregistered = "to_identifier" in fail.__code__.co_names
    with rg.register_generator("all-kinds", AllKinds):
        if unregistered:
            with pytest.raises(rg.error.UnregisteredGeneratorError) as caught:
                fail()
        else:
            with (
                rg.register_generator("echo", EchoGenerator),
                pytest.raises((rg.RiggingError, NotImplementedError, ValueError)) as caught,
            ):
                fail()

    # The line of source in the traceback names KEY, not its value.
    assert KEY not in shown_by(caught.value)
