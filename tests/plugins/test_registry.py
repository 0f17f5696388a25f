"""Corners of the search for providers, with plugins that no build tool would let pass."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import importlib_metadata
import pytest

import rigging as rg
from rigging import _model
from rigging import generator as generator_module
from rigging.error import (
    AmbiguousProviderError,
    BrokenProviderError,
    IncompatibleProviderError,
    MissingDependencyError,
    UnknownProviderError,
)
from rigging.registry import Registry, registry
from tests.support.plugins import Site

if TYPE_CHECKING:
    from pathlib import Path


def class_of(identifier: str) -> type[rg.Generator]:
    return type(rg.get_generator(identifier))


# -- The scan ----------------------------------------------------------------------------


@pytest.fixture
def scans(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each look at what is installed."""
    made: list[int] = []
    original = importlib_metadata.distributions

    def counted() -> object:
        made.append(len(made))
        return original()

    monkeypatch.setattr(importlib_metadata, "distributions", counted)
    return made


def test_what_is_installed_is_read_once_per_process(site: Site, scans: list[int]) -> None:
    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})

    for _ in range(3):
        rg.get_generator("acme!foo").to_identifier()
        registry.known()

    assert len(scans) == 1


def test_a_miss_reads_it_once_more(site: Site, scans: list[int]) -> None:
    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})
    rg.get_generator("acme!foo")

    with pytest.raises(UnknownProviderError, match="'absent' is not installed"):
        rg.get_generator("absent!foo")
    assert len(scans) == 2

    rg.get_generator("acme!foo")
    assert len(scans) == 2


def test_before_the_second_look_pythons_finders_are_told_to_look_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})
    told: list[int] = []
    monkeypatch.setattr(importlib, "invalidate_caches", lambda: told.append(1))

    rg.get_generator("acme!foo")
    assert told == []
    with pytest.raises(UnknownProviderError, match="'absent' is not installed"):
        rg.get_generator("absent!foo")
    assert told == [1]


@pytest.mark.parametrize(("disabled", "count"), [("1", 0), ("", 1)])
def test_a_registered_name_needs_no_scan_but_that_for_plugins(
    scans: list[int], monkeypatch: pytest.MonkeyPatch, disabled: str, count: int
) -> None:
    monkeypatch.setenv("RIGGING_DISABLE_PLUGINS", disabled)
    rg.register_generator("echo", rg.testing.EchoGenerator)

    rg.get_generator("echo!foo").to_identifier()
    rg.get_generator("echo!bar").to_identifier()

    assert len(scans) == count


def test_reset_forgets_what_was_found(site: Site, scans: list[int]) -> None:
    fresh = Registry()
    fresh.scan()
    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})
    assert fresh.scan().providers == set()

    fresh.reset()

    assert fresh.scan().providers == {"acme"}
    assert len(scans) == 2


def test_a_provider_that_was_installed_later_is_found(site: Site) -> None:
    with pytest.raises(UnknownProviderError, match="'acme' is not installed"):
        rg.get_generator("acme!foo")

    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})

    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"


def test_a_class_that_was_installed_later_is_found_by_its_name(site: Site) -> None:
    with pytest.raises(AttributeError, match="no attribute 'Acme'"):
        _ = generator_module.Acme

    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})

    assert generator_module.Acme is class_of("acme!foo")


def test_extras_in_an_entry_point_are_passed_over(site: Site) -> None:
    site.add(
        "acme-rigging",
        entry_points="[rigging.generators]\nacme = acme_rigging : Acme [fast]\n",
        code="from rigging import Generator\nclass Acme(Generator): pass",
    )

    assert generator_module.Acme is class_of("acme!foo")
    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"


def test_other_groups_do_not_matter(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add("other", entry_points="[console_scripts]\nnot an entry point\n")

    assert registry.scan().claims == ()
    assert caplog.records == []


def test_metadata_without_a_name_is_reported(site: Site) -> None:
    site.add("acme-rigging", entry_points={"acme": "acme_rigging:Acme"})
    site.add("broken", "3.0", entry_points={"broken": "broken:Broken"})
    (site.path / "broken-3.0.dist-info" / "METADATA").unlink()

    assert class_of("acme!foo").__name__ == "Acme"
    (problem,) = registry.scan().problems
    assert str(problem).startswith(f"a distribution of unknown version in {site.path}: ")
    assert "its entry points cannot be read" in str(problem)


def test_a_second_record_of_the_same_version_is_no_conflict(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # setuptools leaves an egg-info in the source tree of what is installed for editing.
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"})
    Site(tmp_path / "source", monkeypatch).add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"})

    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"
    assert registry.scan().problems == ()


def test_one_folder_under_two_names_is_no_conflict(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"})
    (tmp_path / "link").symlink_to(site.path, target_is_directory=True)
    monkeypatch.syspath_prepend(tmp_path / "link")

    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"
    assert registry.scan().problems == ()


def test_a_shadowed_copy_is_told_of_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"})
    Site(tmp_path / "stale", monkeypatch).add("acme-rigging", "0.1", {"old": "acme_rigging:Old"})

    assert class_of("old!foo").__name__ == "Old"
    with pytest.raises(UnknownProviderError, match=r"Left out: acme-rigging 1\.0 in .*0\.1 in"):
        rg.get_generator("acme!foo")  # the scan is made again

    (record,) = caplog.records
    assert "acme-rigging 1.0 in" in record.getMessage()
    assert f"shadowed by version 0.1 in {tmp_path / 'stale'}" in record.getMessage()


def test_malformed_entry_points_of_a_stranger_do_not_stop_a_fresh_process(site: Site) -> None:
    # Pydantic reads all entry points for its own plugins when the first model is made.
    site.add("stranger", entry_points="[console_scripts]\nnot an entry point\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import rigging; rigging.Message"
    command = [sys.executable, "-W", "error", "-c", code, str(site.path)]

    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)

    assert done.returncode == 0, done.stderr
    assert "pydantic goes without its plugins" in done.stderr


def test_pydantic_may_fail_to_find_its_plugins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stumbles:
        def __init_subclass__(cls) -> None:
            raise TypeError("malformed")

    monkeypatch.setattr(_model, "BaseModel", Stumbles)

    _model._wake_pydantic()

    (record,) = caplog.records
    assert "pydantic goes without its plugins" in record.getMessage()
    assert "(TypeError: malformed)" in record.getMessage()


# -- Nothing found -----------------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_a_first_party_name_is_answered_with_the_line_that_installs_it() -> None:
    with pytest.raises(
        UnknownProviderError, match=r"'openai' is not installed \(available: none\)\."
    ) as caught:
        rg.get_generator("openai!gpt-4")

    assert caught.value.install == "pip install rigging-openai"
    assert str(caught.value).endswith(" Install it: `pip install rigging-openai`.")


@pytest.mark.usefixtures("site")
def test_a_mistyped_first_party_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(UnknownProviderError, match="'vllm' would come with `pip install rigging-v"):
        rg.get_generator("vlm!any")


def test_what_is_available_is_told_with_what_is_registered(site: Site) -> None:
    site.add("one", entry_points={"first": "one:One"})
    rg.register_generator("echo", rg.testing.EchoGenerator)

    with pytest.raises(UnknownProviderError, match=r"\(available: echo, first\)") as caught:
        rg.get_generator("absent!foo")

    assert caught.value.known == ("echo", "first")
    assert "call `register_generator`" in str(caught.value)


def test_who_else_claims_a_first_party_name_is_told_and_not_imported(site: Site) -> None:
    site.add("pirate", "6.6", {"openai": "pirate:Pirate"})

    with pytest.raises(
        UnknownProviderError,
        match=r"`pip install rigging-openai`\. Claimed by pirate 6\.6 \(pirate:Pirate\): to use "
        r"that one, write 'pirate:openai!…' or set RIGGING_PROVIDER_OPENAI=pirate\.",
    ):
        rg.get_generator("openai!gpt-4")

    assert "pirate" not in sys.modules
    assert rg.get_generator("pirate:openai!foo").to_identifier() == "pirate:openai!foo"


# -- Several claims ----------------------------------------------------------------------


def test_a_name_with_a_dash_is_pinned_by_a_variable_with_an_underscore(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("one", entry_points={"my-llm": "one:One"})
    site.add("two", entry_points={"my-llm": "two:Two"})
    with pytest.raises(AmbiguousProviderError, match="set RIGGING_PROVIDER_MY_LLM=one"):
        rg.get_generator("my-llm!foo")

    monkeypatch.setenv("RIGGING_PROVIDER_MY_LLM", "two")

    assert class_of("my-llm!foo").__name__ == "Two"


def test_an_ambiguous_name_is_written_with_its_distribution(site: Site) -> None:
    site.add("one", entry_points={"llm": "one:One"})
    site.add("two", entry_points={"llm": "two:Two"})

    generator = rg.get_generator("two:llm!foo")

    assert generator.to_identifier() == "two:llm!foo"
    assert rg.get_generator("two:llm!foo") == generator


def test_a_pin_to_what_is_not_installed_is_answered_with_the_line_that_installs_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("one", entry_points={"first": "one:One"})
    monkeypatch.setenv("RIGGING_PROVIDER_FIRST", "Other.Dist")

    with pytest.raises(
        UnknownProviderError, match="RIGGING_PROVIDER_FIRST asks for 'other-dist', which is not"
    ) as caught:
        rg.get_generator("first!foo")

    assert caught.value.install == "pip install other-dist"


def test_a_pin_to_a_distribution_without_this_provider_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("one", entry_points={"first": "one:One"})
    monkeypatch.setenv("RIGGING_PROVIDER_SECOND", "one")

    with pytest.raises(
        UnknownProviderError, match="RIGGING_PROVIDER_SECOND asks for 'one', which does not provide"
    ) as caught:
        rg.get_generator("second!foo")

    assert caught.value.install is None  # it is installed


def test_a_blank_pin_is_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("one", entry_points={"first": "one:One"})
    monkeypatch.setenv("RIGGING_PROVIDER_FIRST", " ")

    assert class_of("first!foo").__name__ == "One"


def test_a_class_name_that_several_have_says_which(site: Site) -> None:
    site.add("one", "1.0", {"first": "one:Same"})
    site.add("two", "2.0", {"second": "two:Same"})

    with pytest.raises(AttributeError, match=r"'Same': one 1\.0 \(one:Same\), two 2\.0 \(two:Same"):
        _ = generator_module.Same


def test_one_class_under_two_names_is_had_by_its_own(site: Site) -> None:
    site.add(
        "one",
        entry_points="[rigging.generators]\na = one:Same\nb = one:Same\n",
        code="from rigging import Generator\nclass Same(Generator): pass",
    )

    assert generator_module.Same is class_of("b!foo") is class_of("a!foo")
    assert rg.get_generator("b!foo").to_identifier() == "a!foo"


def test_a_first_party_class_name_is_not_taken_by_another_provider(site: Site) -> None:
    site.add("aaa", entry_points={"aaa": "aaa:OpenAIGenerator"})
    assert generator_module.OpenAIGenerator.__module__ == "aaa"
    registry.reset()

    site.add("rigging-openai", entry_points={"openai": "rigging_openai:OpenAIGenerator"})

    assert generator_module.OpenAIGenerator.__module__ == "rigging_openai"


def test_a_first_party_class_keeps_its_name_whoever_else_names_it(site: Site) -> None:
    site.add("rigging-openai", entry_points={"openai": "rigging_openai:OpenAIGenerator"})
    site.add("aaa", entry_points="[rigging.generators]\naaa = rigging_openai:OpenAIGenerator\n")

    assert rg.get_generator("aaa!foo").to_identifier() == "openai!foo"


def test_a_private_name_is_not_searched_for(scans: list[int]) -> None:
    with pytest.raises(AttributeError, match="no attribute '_private'"):
        _ = generator_module._private

    assert scans == []


# -- Loading -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        pytest.param("import absent.part", "absent", id="package"),
        pytest.param("import xml.absent", "xml.absent", id="part-of-a-package"),
    ],
)
def test_a_missing_module_is_named_as_far_as_it_is_missing(
    site: Site, code: str, missing: str
) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, code)

    with pytest.raises(MissingDependencyError, match=f"needs the module '{missing}', ") as caught:
        rg.get_generator("acme!foo")

    assert caught.value.dependency == missing
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import rigging.absent", id="ours"),
        pytest.param("from rigging import absent", id="a-name-of-ours"),
        pytest.param("import acme_rigging.absent", id="its-own"),
        pytest.param("raise ModuleNotFoundError('no name given')", id="nameless"),
    ],
)
def test_a_missing_module_that_nobody_can_install_makes_it_broken(site: Site, code: str) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, code)

    with pytest.raises(BrokenProviderError, match=r"cannot be loaded: .*Error: ") as caught:
        rg.get_generator("acme!foo")

    assert isinstance(caught.value.__cause__, ImportError)


def test_an_entry_point_that_does_not_parse_is_quoted(site: Site) -> None:
    site.add("acme-rigging", "1.0", "[rigging.generators]\nacme = acme rigging\n")

    with pytest.raises(
        BrokenProviderError, match="its entry point 'acme rigging' does not read 'module:Class'"
    ) as caught:
        rg.get_generator("acme!foo")

    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("plugin_api", "remedy"),
    [
        pytest.param(0, "pip install --upgrade acme-rigging", id="older"),
        pytest.param(2, "pip install --upgrade rigging-core", id="newer"),
        pytest.param("'1'", "pip install --upgrade acme-rigging", id="no-number"),
    ],
)
def test_another_plugin_api_says_which_side_to_upgrade(
    site: Site, plugin_api: object, remedy: str
) -> None:
    code = f"""
    from rigging import Generator

    class Acme(Generator):
        plugin_api = {plugin_api}
    """
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, code)

    with pytest.raises(
        IncompatibleProviderError,
        match=f"'acme' of acme-rigging 1.0 .* API {plugin_api}, .*{remedy}",
    ):
        rg.get_generator("acme!foo")


def test_a_plugin_that_was_repaired_works_in_the_same_process(site: Site) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, "raise RuntimeError('broken')")
    with pytest.raises(BrokenProviderError, match="RuntimeError: broken"):
        rg.get_generator("acme!foo")

    # Longer than before, so that no bytecode of the same second and size stands for it.
    site.write("acme_rigging.py", "from rigging import Generator\nclass Acme(Generator): pass\n")

    assert class_of("acme!foo").__name__ == "Acme"


def test_a_plugin_that_exits_at_import_ends_nothing(site: Site) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, "raise SystemExit('usage')")

    with pytest.raises(BrokenProviderError, match="SystemExit: usage") as caught:
        rg.get_generator("acme!foo")

    assert isinstance(caught.value.__cause__, SystemExit)


def test_a_class_inside_a_class_can_be_a_provider(site: Site) -> None:
    code = """
    from rigging import Generator

    class Outer:
        class Acme(Generator):
            pass
    """
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Outer.Acme"}, code)

    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"


LAZY = """
    def __getattr__(name):
        if name == "Acme":
            from acme_engine import Acme
            return Acme
        raise AttributeError(name)
"""


def test_a_class_that_its_module_imports_late_has_an_identifier(site: Site) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, LAZY)
    site.write("acme_engine.py", "from rigging import Generator\nclass Acme(Generator): pass\n")

    assert rg.get_generator("acme!foo").to_identifier() == "acme!foo"


def test_a_class_made_by_hand_has_an_identifier_though_its_package_imports_it_late(
    site: Site,
) -> None:
    site.add("acme", "1.0", {"acme": "acme:Acme"}, "")
    (site.path / "acme.py").unlink()
    site.write("acme/__init__.py", LAZY.replace("acme_engine", "acme.engine"))
    site.write("acme/engine.py", "from rigging import Generator\nclass Acme(Generator): pass\n")

    made = importlib.import_module("acme").Acme(model="foo")

    assert made.to_identifier() == "acme!foo"


def test_writing_an_identifier_runs_no_code_of_another_plugin(site: Site) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, LAZY)  # its engine is missing
    site.add("other", "1.0", {"other": "other:Other"})
    importlib.import_module("acme_rigging")

    assert rg.get_generator("other!foo").to_identifier() == "other!foo"


def test_an_interrupt_while_a_plugin_is_imported_is_no_fault_of_the_plugin(site: Site) -> None:
    site.add("acme-rigging", "1.0", {"acme": "acme_rigging:Acme"}, "raise KeyboardInterrupt('now')")

    with pytest.raises(KeyboardInterrupt, match="now"):
        rg.get_generator("acme!foo")
