"""Giving a class a name in process, and taking it back."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import (
    BrokenProviderError,
    IncompatibleProviderError,
    InvalidGeneratorError,
    MissingDependencyError,
    UnknownProviderError,
    UnregisteredGeneratorError,
)
from rigging.registry import registry

if TYPE_CHECKING:
    from tests.support.plugins import Site

pytestmark = pytest.mark.usefixtures("clean_registry")


class Custom(rg.Generator):
    custom_field: bool = False


class Other(rg.Generator):
    pass


def class_of(identifier: str) -> type[rg.Generator]:
    return type(rg.get_generator(identifier))


# -- Registering -------------------------------------------------------------------------


def test_a_registered_class_is_had_by_name_with_its_own_fields() -> None:
    rg.register_generator("custom", Custom)

    generator = rg.get_generator("custom!foo,custom_field=true")

    assert generator == Custom(model="foo", custom_field=True)
    assert generator.to_identifier() == "custom!foo,custom_field=true"


def test_the_name_is_the_same_in_any_case() -> None:
    rg.register_generator("CusTom", Custom)

    assert class_of("cUSTOM!foo") is Custom
    assert Custom(model="foo").to_identifier() == "custom!foo"


def test_the_default_provider_can_be_registered() -> None:
    rg.register_generator("litellm", Custom)

    assert rg.get_generator("gpt-4").to_identifier() == "litellm!gpt-4"


def test_the_environment_names_another_default_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    rg.register_generator("custom", Custom)
    monkeypatch.setenv("RIGGING_DEFAULT_PROVIDER", " Custom ")

    assert rg.get_generator("foo").to_identifier() == "custom!foo"


def test_an_empty_default_provider_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rg.register_generator("litellm", Custom)
    monkeypatch.setenv("RIGGING_DEFAULT_PROVIDER", "")

    assert class_of("gpt-4") is Custom


def test_a_default_provider_that_cannot_be_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGGING_DEFAULT_PROVIDER", "lite!llm")

    with pytest.raises(InvalidGeneratorError, match="RIGGING_DEFAULT_PROVIDER is 'lite!llm'"):
        rg.get_generator("gpt-4")


def test_a_class_without_a_name_says_how_to_get_one() -> None:
    with pytest.raises(UnregisteredGeneratorError, match=r"register_generator\('custom', Custom\)"):
        Custom(model="foo").to_identifier()


@pytest.mark.parametrize("name", ["", " ", "1st", "a b", "a!b", "a:b", "a,b", "naïve", None, 7])
def test_what_cannot_be_a_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidGeneratorError, match="cannot be a provider's name"):
        rg.register_generator(name, Custom)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(int, "int is not a subclass of rigging.Generator", id="another-class"),
        pytest.param("acme:Acme", "a Generator class or a callable .* got str", id="text"),
        pytest.param(None, "a Generator class or a callable .* got NoneType", id="nothing"),
        pytest.param(Custom(model="foo"), "a callable .* got Custom", id="an-instance"),
    ],
)
def test_what_is_no_class_and_no_callable_is_refused(source: Any, reason: str) -> None:
    with pytest.raises(InvalidGeneratorError, match=reason):
        rg.register_generator("custom", source)

    with pytest.raises(UnknownProviderError, match="'custom' is not installed"):
        rg.get_generator("custom!foo")


def test_a_class_for_another_plugin_api_is_refused_when_it_is_used() -> None:
    class Older(rg.Generator):
        plugin_api = 0

    class Newer(rg.Generator):
        plugin_api = 2

    rg.register_generator("older", Older)
    rg.register_generator("newer", Newer)

    with pytest.raises(IncompatibleProviderError, match=r"plugin API 0, .* Upgrade the code that"):
        rg.get_generator("older!foo")
    with pytest.raises(IncompatibleProviderError, match=r"plugin API 2, .* --upgrade rigging-core"):
        rg.get_generator("newer!foo")


# -- A callable that gives the class -----------------------------------------------------


def test_a_callable_is_called_once_and_not_before_it_is_needed() -> None:
    calls = []

    def load() -> type[rg.Generator]:
        calls.append(1)
        return Custom

    registration = rg.register_generator("custom", load)
    assert (calls, registration.loaded) == ([], None)

    assert class_of("custom!foo") is class_of("custom!bar") is Custom
    assert (calls, registration.loaded) == ([1], Custom)


def test_a_callable_is_called_once_by_many_threads() -> None:
    calls = []
    barrier = threading.Barrier(8)

    def load() -> type[rg.Generator]:
        calls.append(1)
        time.sleep(0.05)  # all the others come meanwhile
        return Custom

    def use() -> None:
        barrier.wait()
        rg.get_generator("custom!foo")

    rg.register_generator("custom", load)
    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert calls == [1]


def test_a_class_that_nobody_has_asked_its_callable_for_has_no_identifier() -> None:
    rg.register_generator("custom", lambda: Custom)

    with pytest.raises(UnregisteredGeneratorError, match="registered under no provider name"):
        Custom(model="foo").to_identifier()
    rg.get_generator("custom!foo")
    assert Custom(model="foo").to_identifier() == "custom!foo"


def test_a_callable_that_gives_no_generator_is_broken() -> None:
    rg.register_generator("custom", lambda: int)

    with pytest.raises(
        BrokenProviderError,
        match=r"'custom' registered in process is <class 'int'>, which is not a subclass of "
        r"rigging\.Generator\. Register a Generator class",
    ):
        rg.get_generator("custom!foo")


def test_a_callable_that_raises_is_broken() -> None:
    rg.register_generator("custom", lambda: 1 / 0)

    with pytest.raises(BrokenProviderError, match="cannot be loaded: ZeroDivisionError") as caught:
        rg.get_generator("custom!foo")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_callable_whose_import_fails_names_the_missing_module() -> None:
    def load() -> type[rg.Generator]:
        import absent_engine

        return absent_engine.Generator

    rg.register_generator("custom", load)

    with pytest.raises(MissingDependencyError, match="needs the module 'absent_engine'") as caught:
        rg.get_generator("custom!foo")

    assert caught.value.dependency == "absent_engine"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# -- Undoing -----------------------------------------------------------------------------


def test_as_a_context_manager_it_is_undone_at_the_end() -> None:
    with rg.register_generator("custom", Custom) as registration:
        assert registration.provider == "custom"
        assert class_of("custom!foo") is Custom

    with pytest.raises(UnknownProviderError, match="'custom' is not installed"):
        rg.get_generator("custom!foo")


def test_it_is_undone_when_the_block_raises() -> None:
    def fail() -> None:
        with rg.register_generator("custom", Custom):
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert "custom" not in registry.known()


def test_nested_registrations_come_back_one_by_one() -> None:
    with rg.register_generator("custom", Custom):
        with rg.register_generator("custom", Other):
            assert class_of("custom!foo") is Other
            with pytest.raises(UnregisteredGeneratorError, match="Custom is registered under no"):
                Custom(model="foo").to_identifier()
        assert class_of("custom!foo") is Custom


def test_a_covered_registration_leads_back_by_its_other_name() -> None:
    rg.register_generator("other", Custom)
    rg.register_generator("custom", Custom)
    rg.register_generator("custom", Other)

    assert Custom(model="foo").to_identifier() == "other!foo"


def test_registrations_may_be_undone_out_of_order() -> None:
    first = rg.register_generator("custom", Custom)
    second = rg.register_generator("custom", Other)

    first.undo()
    assert class_of("custom!foo") is Other
    second.undo()
    assert "custom" not in registry.known()


def test_undoing_may_be_repeated_and_touches_no_later_registration() -> None:
    first = rg.register_generator("custom", Custom)
    first.undo()
    rg.register_generator("custom", Custom)

    first.undo()

    assert class_of("custom!foo") is Custom


def test_a_registration_shows_what_it_is_of() -> None:
    assert "Registration of 'custom': <class" in repr(rg.register_generator("custom", Custom))


# -- On top of an installed provider -----------------------------------------------------


def test_covering_an_installed_provider_is_logged_at_info(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.add("acme-rigging", "1.2", {"acme": "acme_rigging:Acme"})

    with caplog.at_level(logging.INFO, "rigging"):
        rg.register_generator("acme", Custom)
        rg.register_generator("custom", Custom)

    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        f"provider 'acme' of acme-rigging 1.2 (acme_rigging:Acme) is replaced in process by "
        f"{Custom!r}"
    )


def test_undoing_uncovers_the_installed_provider(site: Site) -> None:
    site.add("acme-rigging", "1.2", {"acme": "acme_rigging:Acme"})

    with rg.register_generator("acme", Custom):
        assert class_of("acme!foo") is Custom
        assert class_of("acme-rigging:acme!foo").__name__ == "Acme"

    assert class_of("acme!foo").__name__ == "Acme"


def test_a_registration_goes_before_a_pin(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("acme-rigging", "1.2", {"acme": "acme_rigging:Acme"})
    monkeypatch.setenv("RIGGING_PROVIDER_ACME", "acme-rigging")

    with rg.register_generator("acme", Custom):
        assert class_of("acme!foo") is Custom


def test_a_plugin_that_registers_at_import_may_be_loaded_by_two_threads_at_once(
    site: Site,
) -> None:
    # One thread imports the plugin, which registers something; the other asks for its provider.
    site.write("meeting.py", "import threading\nbarrier = threading.Barrier(2, timeout=20)\n")
    site.add(
        "acme-rigging",
        entry_points={"acme": "acme_rigging:Acme"},
        code="""
        import meeting, time, rigging

        meeting.barrier.wait()
        time.sleep(0.2)  # until the other thread waits for this import

        class Acme(rigging.Generator):
            pass

        rigging.register_generator("acme-too", Acme)
        """,
    )
    registry.scan()

    def ask() -> None:
        import meeting

        meeting.barrier.wait()
        rg.get_generator("acme!foo")

    other = threading.Thread(target=ask, daemon=True)
    other.start()
    import acme_rigging  # noqa: F401

    other.join(timeout=20)

    assert not other.is_alive()
    assert class_of("acme-too!foo") is class_of("acme!foo")
