"""Rules of the import: looking a class up costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rigging.testing._contract._children import import_in_child
from rigging.testing._contract._subject import Subject

if TYPE_CHECKING:
    from rigging.generator import Generator

__all__ = ["ImportRules"]

# What every provider imports.
_BASE: Final = "rigging.generator"
_TRIES: Final = 2  # on a busy machine even CPU time varies


class ImportRules(Subject):
    """Importing the provider brings no library that it may never need."""

    def test_its_import_brings_no_heavy_library(self, generator: Generator) -> None:
        module = type(generator).__module__
        tops = {name.partition(".")[0] for name in import_in_child(module).modules}
        heavy = sorted(tops & self.heavy_modules)
        assert not heavy, (
            f"importing {module} brings no heavy library: it brought {', '.join(heavy)}. Import "
            f"them when the first request needs them"
        )

    def test_its_import_costs_little(self, generator: Generator) -> None:
        module = type(generator).__module__
        least = self._ratio(module)
        for _ in range(_TRIES - 1):
            if least <= self.max_import_ratio:
                break
            least = min(least, self._ratio(module))
        assert least <= self.max_import_ratio, (
            f"importing {module} takes at most {self.max_import_ratio:g} times the CPU of "
            f"`import {_BASE}`: it took {least:.1f} times that"
        )

    def _ratio(self, module: str) -> float:
        return import_in_child(module).cpu_s / import_in_child(_BASE).cpu_s
