"""Rules of the key: it goes into the request, and nowhere else."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import warnings
from typing import TYPE_CHECKING, Final
from unittest import mock

import pytest

from rigging.plugins import manager
from rigging.testing._contract._assigning import assigned
from rigging.testing._contract._exposure import shown_of, shown_of_error, shown_of_generator
from rigging.testing._contract._kinds import WAYS, Kind
from rigging.testing._contract._subject import PROMPTS, Subject, needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rigging.events import (
        ModelLoaded,
        ModelUnloaded,
        RequestFailed,
        RequestFinished,
        RequestStarted,
    )
    from rigging.generator import Generator
    from rigging.testing._contract._runner import Runner
    from rigging.testing._situations import Fault

__all__ = ["SecretRules"]

_KEY: Final = "sk-planted-4f9c1d7ab2"
_SHORTEST: Final = 8  # characters of a key that is found nowhere else


class SecretRules(Subject):
    """No key is ever shown."""

    @pytest.fixture
    def watch(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Watch:
        """See what is logged, warned and printed."""
        return Watch(caplog, capfd)

    def test_its_key_is_never_shown(self, generator: Generator) -> None:
        for planted in _plantings(generator):
            with planted(generator) as key:
                shown = shown_of_generator(generator)
            leaks = [how for how, text in shown.items() if key in text]
            assert not leaks, f"a generator never shows its key: it is in the {', '.join(leaks)}"

    def test_no_record_of_a_request_shows_the_key(
        self, generator: Generator, kind: Kind, watch: Watch, runner: Runner
    ) -> None:
        for planted in _plantings(generator):
            for way in WAYS:
                with planted(generator) as key, watch.on():
                    generator.load()
                    result = runner.run(kind.answer(way, generator, PROMPTS[0], self.params()))
                leaks = watch.leaks_of(key)
                assert not leaks, (
                    f"no log record, warning or output shows a key, at any level: a {way} wrote it "
                    f"to {', '.join(leaks)}"
                )
                assert key not in shown_of(result), f"no result shows a key: that of a {way} does"

    def test_no_event_shows_the_key(self, generator: Generator, kind: Kind, runner: Runner) -> None:
        start = generator.chat if kind.name == "messages" else generator.complete
        for planted in _plantings(generator):
            told = _Told()
            with planted(generator) as key, manager.register(told):
                runner.run(start(PROMPTS[0]).with_(self.params()).run())
            leaks = [event for event in told.events if key in f"{event!r} {pickle.dumps(event)!r}"]
            assert not leaks, f"no event shows a key: a {type(leaks[0]).__name__} does"

    @needs("can_fail")
    def test_no_error_shows_the_key(
        self,
        generator: Generator,
        kind: Kind,
        faults: Sequence[Fault],
        watch: Watch,
        runner: Runner,
    ) -> None:
        for fault in faults:
            asked = fault.generator or generator
            params = self.params().merge_with(fault.params)
            for planted, way in itertools.product(_plantings(asked), WAYS):
                shown: Mapping[str, str] = {}
                with planted(asked) as key, watch.on():
                    fault.arrange()
                    try:
                        runner.run(kind.answer(way, asked, fault.prompt, params))
                    except Exception as error:  # noqa: BLE001 (whatever it is, it is looked at)
                        shown = shown_of_error(error)
                leaks = [where for where, text in shown.items() if key in text]
                assert not leaks, (
                    f"no error shows a key, also where the endpoint repeats it "
                    f"({fault.described}): that of a {way} has it in its {', '.join(leaks)}"
                )
                leaks = watch.leaks_of(key)
                assert not leaks, (
                    f"no log record, warning or output shows a key, at any level "
                    f"({fault.described}): a {way} wrote it to {', '.join(leaks)}"
                )


class Watch:
    """Sees what is logged at any level, warned and printed, while it is on."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        self._caplog = caplog
        self._capfd = capfd
        self._seen: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Forget what was seen before, and look."""
        self._caplog.clear()
        self._capfd.readouterr()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._caplog.at_level(logging.DEBUG))
            warned = stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            # The root's level does not reach those that have one of their own.
            for logger in [*logging.root.manager.loggerDict.values()]:
                if not isinstance(logger, logging.Logger):
                    continue
                if logger.level:
                    stack.callback(logger.setLevel, logger.level)
                    logger.setLevel(logging.DEBUG)
                if not logger.propagate:
                    stack.callback(logger.removeHandler, self._caplog.handler)
                    logger.addHandler(self._caplog.handler)
            yield
        printed = self._capfd.readouterr()
        self._seen = [
            *(
                (f"the log {record.name!r}", f"{record.getMessage()} {vars(record)!r}")
                for record in self._caplog.records
            ),
            *((f"a {one.category.__name__}", str(one.message)) for one in warned),
            ("standard output", printed.out),
            ("standard error", printed.err),
        ]

    def leaks_of(self, key: str) -> list[str]:
        """Return where a key was seen."""
        return sorted({where for where, text in self._seen if key in text})


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


def _plantings(
    generator: Generator,
) -> Sequence[Callable[[Generator], contextlib.AbstractContextManager[str]]]:
    """Return the ways to plant a key; each gives it."""
    in_field_only = generator.api_key is not None or not generator.key_variables
    return (_in_the_field,) if in_field_only else (_in_the_field, _in_the_environment)


@contextlib.contextmanager
def _in_the_field(generator: Generator) -> Iterator[str]:
    """Give a generator a key; its own one, or that of the environment, may be needed."""
    key = _usable(generator.api_key or _key_in_the_environment(generator))
    if key == generator.api_key:
        yield key
    else:
        with assigned(generator, "api_key", key):
            yield key


@contextlib.contextmanager
def _in_the_environment(generator: Generator) -> Iterator[str]:
    key = _key_in_the_environment(generator)
    planted = {} if key == _usable(key) else dict.fromkeys(generator.key_variables, _KEY)
    with mock.patch.dict(os.environ, planted):
        yield _usable(key)


def _key_in_the_environment(generator: Generator) -> str:
    found = (os.environ.get(name, "") for name in generator.key_variables)
    return next(filter(None, found), "")


def _usable(key: str) -> str:
    """Return a key that no other text holds: servers on one's own machine take ``any``."""
    return key if len(key) >= _SHORTEST else _KEY
