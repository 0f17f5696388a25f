"""Plugins that are installed: found, let in or kept out, and harmless where they are broken."""

from __future__ import annotations

import builtins
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging.error import RiggingWarning
from rigging.plugins import manager
from rigging.testing import EchoGenerator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.environments import Environment
    from tests.support.plugins import Site

LISTENING = """
    seen = []

    def rigging_request_finished(event):
        seen.append(event)
"""
OBJECTS = """
    seen = []

    class Made:
        def rigging_request_finished(self, event):
            seen.append(event)

    made = Made()
"""


def plugin(site: Site, distribution: str, target: str = "", code: str = LISTENING) -> None:
    """Install a plugin that is named like its distribution."""
    target = target or distribution
    site.add(
        distribution, entry_points=f"[rigging.plugins]\n{distribution} = {target}\n", code=code
    )


def run(times: int = 1) -> None:
    for _ in range(times):
        EchoGenerator(model="x").chat("a").run_sync()


def seen(module: str) -> int:
    return len(sys.modules[module].seen) if module in sys.modules else 0


def test_an_installed_plugin_is_loaded_when_a_generator_is_first_run(site: Site) -> None:
    plugin(site, "quiet")
    EchoGenerator(model="x")
    assert "quiet" not in sys.modules
    run()
    run()

    assert manager.names == ["quiet"]
    assert seen("quiet") == 2


@pytest.mark.parametrize("target", ["objects:Made", "objects:made"])
def test_a_plugin_may_be_an_object_or_a_class_that_makes_one(site: Site, target: str) -> None:
    plugin(site, "objects", target, OBJECTS)
    run()

    assert seen("objects") == 1


def test_what_is_left_out_is_not_imported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        plugin(site, name)
    monkeypatch.setenv("RIGGING_PLUGINS", " One,three ,")
    run()

    assert sorted(manager.names) == ["one", "three"]
    assert "two" not in sys.modules


@pytest.mark.parametrize(("value", "names"), [(",", []), (" ", ["quiet"]), ("", ["quiet"])])
def test_a_list_of_no_names_lets_in_none(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str, names: list[str]
) -> None:
    plugin(site, "quiet")
    monkeypatch.setenv("RIGGING_PLUGINS", value)
    run()

    assert manager.names == names


@pytest.mark.parametrize(("value", "count"), [("1", 0), ("true", 0), ("0", 1), ("", 1)])
def test_all_can_be_left_out(
    site: Site, monkeypatch: pytest.MonkeyPatch, value: str, count: int
) -> None:
    plugin(site, "quiet")
    monkeypatch.setenv("RIGGING_DISABLE_PLUGINS", value)
    run()

    assert len(manager.names) == count
    assert ("quiet" in sys.modules) == bool(count)


def test_a_name_that_is_not_installed_is_warned_about(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(site, "quiet")
    monkeypatch.setenv("RIGGING_PLUGINS", "quite")
    with pytest.warns(RiggingWarning, match="names 'quite', which is not installed; did you mean"):
        run()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no licence')", "ValueError: no licence"),
        ("import absent_engine", "ModuleNotFoundError: No module named 'absent_engine'"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("x = 1", "InvalidPluginError: the plugin 'broken' has no hook"),
    ],
)
def test_a_broken_plugin_is_warned_about_and_the_others_work(
    site: Site, code: str, reason: str
) -> None:
    plugin(site, "broken", code=code)
    plugin(site, "quiet")
    with pytest.warns(RiggingWarning, match=f"plugin 'broken' of broken 1.0 .*{reason}") as told:
        run(times=2)

    assert len(told) == 1
    assert seen("quiet") == 2


def test_ctrl_c_while_they_are_loaded_leaves_out_none_of_them(site: Site) -> None:
    plugin(site, "first")
    plugin(site, "second", code="x = 1")
    interrupted = """
    import builtins
    if not hasattr(builtins, "interrupted"):
        builtins.interrupted = True
        raise KeyboardInterrupt
    """
    plugin(site, "third", code=interrupted + LISTENING)
    plugin(site, "zeroth")
    try:
        with warnings.catch_warnings(record=True, action="always") as told:
            with pytest.raises(KeyboardInterrupt):
                run()
            run(times=2)
    finally:
        del builtins.interrupted  # type: ignore[attr-defined]

    assert sorted(manager.names) == ["first", "third", "zeroth"]
    assert ["'second'" in str(one.message) for one in told] == [True]
    assert [seen(name) for name in ("first", "third", "zeroth")] == [2, 2, 2]


def test_a_plugin_may_make_and_run_a_generator_while_it_is_loaded(site: Site) -> None:
    code = LISTENING + (
        "\n    from rigging.testing import EchoGenerator\n"
        "    EchoGenerator(model='x').chat('a').run_sync()\n"
    )
    plugin(site, "eager", code=code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()

    assert seen("eager") == 1


def test_a_generator_of_an_installed_plugin_is_had_by_its_name(site: Site) -> None:
    code = """
        from rigging.testing import EchoGenerator

        def rigging_register_generators(register):
            register("parrot", EchoGenerator)
    """
    plugin(site, "brings", code=code)

    assert rg.get_generator("parrot!x").to_identifier() == "parrot!x"


def test_really_installed_it_counts_and_brings_a_generator(
    install: Callable[..., Environment],
) -> None:
    done = install("tally-rigging").cells(
        "import warnings; warnings.simplefilter('always'); logging.captureWarnings(True)",
        "import sys; 'tally_rigging' in sys.modules",
        "asyncio.run(rg.get_generator('parrot!polly').chat('hi').run()).last.content",
        "sys.modules['tally_rigging'].finished",
    )

    assert done.values == [None, False, "hi", {"polly": 1}]
    (told,) = [line for line in done.logs if "left out" in line and "plugin" in line]
    assert "broken-tally" in told
    assert "the tally's licence has expired" in told
