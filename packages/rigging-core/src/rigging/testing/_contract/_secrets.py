"""Rules of the key: it goes into the request, and nowhere else."""

from __future__ import annotations

import contextlib
import logging
import pickle
from typing import TYPE_CHECKING, Final

from rigging.plugins import manager
from rigging.testing._contract._assigning import assigned
from rigging.testing._contract._exposure import shown_of_error, shown_of_generator
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from rigging.events import (
        ModelLoaded,
        ModelUnloaded,
        RequestFailed,
        RequestFinished,
        RequestStarted,
    )
    from rigging.generator import Generator
    from rigging.testing._contract._kinds import Kind
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import Fault

__all__ = ["SecretRules"]

_KEY: Final = "sk-planted-4f9c1d7ab2"


class SecretRules(Subject):
    """No key is ever shown."""

    def test_its_key_is_never_shown(self, generator: Generator) -> None:
        with _planted(generator) as key:
            shown = shown_of_generator(generator)
        leaks = [how for how, text in shown.items() if key in text]
        assert not leaks, f"a generator never shows its key: it is in the {', '.join(leaks)}"

    def test_no_record_of_a_request_shows_the_key(
        self,
        generator: Generator,
        kind: Kind,
        caplog: pytest.LogCaptureFixture,
        runner: Runner,
    ) -> None:
        with _planted(generator) as key, caplog.at_level(logging.DEBUG):
            result = runner.run(kind.ask(generator, PROMPTS[0], self.params()))
        records = [record for record in caplog.records if key in _text_of(record)]
        assert not records, f"no log record shows a key, at any level: {records[0].name} wrote one"
        assert key not in result.model_dump_json(), "no result shows a key"

    def test_no_event_shows_the_key(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        told = _Told()
        start = generator.chat if kind.name == "messages" else generator.complete
        with _planted(generator) as key, manager.register(told):
            runner.run(start(PROMPTS[0]).with_(self.params()).run())
        assert told.events, "plugins are told of the requests of pipelines"
        leaks = [event for event in told.events if key in f"{event!r} {pickle.dumps(event)!r}"]
        assert not leaks, f"no event shows a key: a {type(leaks[0]).__name__} does"

    @needs("can_fail")
    def test_no_error_shows_the_key(
        self,
        generator: Generator,
        kind: Kind,
        faults: Sequence[Fault],
        caplog: pytest.LogCaptureFixture,
        runner: Runner,
    ) -> None:
        for fault in faults:
            asked = fault.generator or generator
            with _planted(asked) as key, caplog.at_level(logging.DEBUG):
                fault.arrange()
                params = self.params().merge_with(fault.params)
                try:
                    runner.run(kind.ask(asked, fault.prompt, params))
                except Exception as error:  # noqa: BLE001 (whatever it is, it is looked at)
                    shown = shown_of_error(error)
                else:
                    shown = {}
            leaks = [how for how, text in shown.items() if key in text]
            assert not leaks, (
                f"no error shows a key, also where the endpoint repeats it ({fault.described}): "
                f"it is in the {', '.join(leaks)}"
            )
            records = [record for record in caplog.records if key in _text_of(record)]
            assert not records, (
                f"no log record shows a key, at any level ({fault.described}): "
                f"{records[0].name} wrote one"
            )


class _Told:
    """A plugin that keeps the events it is told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def rigging_request_started(self, event: RequestStarted) -> None:
        self.events.append(event)

    def rigging_request_finished(self, event: RequestFinished) -> None:
        self.events.append(event)

    def rigging_request_failed(self, event: RequestFailed) -> None:
        self.events.append(event)

    def rigging_model_loaded(self, event: ModelLoaded) -> None:
        self.events.append(event)

    def rigging_model_unloaded(self, event: ModelUnloaded) -> None:
        self.events.append(event)


@contextlib.contextmanager
def _planted(generator: Generator) -> Iterator[str]:
    """Give a generator a key, unless it has one."""
    if generator.api_key is not None:
        yield generator.api_key
    else:
        with assigned(generator, "api_key", _KEY):
            yield _KEY


def _text_of(record: logging.LogRecord) -> str:
    return f"{record.getMessage()} {record.exc_text or ''} {record.args!r}"
