"""Projects of providers: the names in one, and how it is made from the template.

The template is a real project, for a provider ``mymodel``: it is checked as all other code is,
and the names in it are replaced.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rigging._installed import FIRST_PARTY
from rigging.cli._exits import UsageError
from rigging.identifier import is_provider_name, normalize_distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Project"]

_TEMPLATE: Final = Path(__file__).with_name("_template")


@dataclass(frozen=True)
class Project:
    """A provider's project.

    Attributes:
        provider: The provider's name, lower-cased.
        distribution: What the package is installed as; the project's folder, too.
        module: What it is imported as.
        generator: The name of the class.

    Example:
        >>> project = Project.of("My-LLM")
        >>> project.provider, project.distribution, project.module, project.generator
        ('my-llm', 'my-llm-rigging', 'my_llm_rigging', 'MyLlmGenerator')
    """

    provider: str
    distribution: str
    module: str
    generator: str

    @classmethod
    def of(cls, name: str) -> Project:
        """Derive all names from the provider's.

        Raises:
            UsageError: If a provider cannot, or may not, have this name.
        """
        provider = name.lower()
        if not is_provider_name(name):
            raise UsageError(
                f"{name!r} cannot be a provider's name: expected a letter, then letters, digits, "
                f"'-' and '_', as in 'acme'"
            )
        if provider in FIRST_PARTY:
            raise UsageError(
                f"the name {provider!r} belongs to the package rigging-{provider}, whoever else "
                f"claims it: take another one"
            )
        distribution = normalize_distribution(f"{provider}-rigging")
        words = re.split(r"[-_]+", provider)
        generator = "".join(word.capitalize() for word in words) + "Generator"
        return cls(provider, distribution, distribution.replace("-", "_"), generator)

    def make(self, into: Path) -> Path:
        """Write the project; either all of it is there at the end, or nothing.

        Args:
            into: The folder to put the project's folder in.

        Returns:
            The project's folder.

        Raises:
            UsageError: If there is something of that name, or it cannot be written there.
        """
        folder = into / self.distribution
        try:
            if folder.exists() or folder.is_symlink():
                raise UsageError(
                    f"{folder} exists already: choose another folder with --into, or remove it"
                )
            # Beside its place, so that moving it there is one step.
            with tempfile.TemporaryDirectory(prefix=f".{self.distribution}-", dir=into) as beside:
                draft = Path(beside) / self.distribution
                self._write(draft)
                draft.rename(folder)
        except OSError as error:  # no right to, no space, a name too long
            raise UsageError(f"{folder} cannot be made: {error.strerror}") from error
        return folder

    def _write(self, folder: Path) -> None:
        for name in _files(_TEMPLATE):
            target = folder / self._named(name.as_posix())
            target.parent.mkdir(parents=True, exist_ok=True)
            text = self._named((_TEMPLATE / name).read_text(encoding="utf-8"))
            target.write_text(text, encoding="utf-8", newline="\n")

    def _named(self, text: str) -> str:
        """Put this project's names in place of the template's."""
        names = {
            "mymodel-rigging": self.distribution,
            "mymodel_rigging": self.module,
            "MymodelGenerator": self.generator,
            "mymodel": self.provider,
        }
        # In one pass: a name may hold another one.
        return re.sub("|".join(names), lambda found: names[found[0]], text)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the template's files, as paths in it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        # Installers compile what they install, and linters remember what they have read.
        cached = any(part.strip("._").endswith("cache") for part in inside.parts)
        if path.is_file() and not cached:
            yield inside
