"""The site: the pages of `docs/`, and those that they link to elsewhere in the repository.

    python docs/build_site.py [REPOSITORY]

Zensical builds from one folder, so the pages are gathered in `build/docs` first. There
`docs/` is the root, and links out of it lose one ``../``: the same link works in the repository
and on the site. Zensical checks links between Markdown pages only, so the built pages are
checked once more, for all links. Whatever is wrong is printed, and the exit status is 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

# What pages of `docs/` may link to.
_OUTSIDE: Final = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS*.md", "examples/*.py")
# These complain on standard error, and zensical goes on.
_COMPLAINT: Final = re.compile(r"^(?:mkdocstrings|griffe|mkdocs_autorefs)\b.*", re.MULTILINE)


def gather(root: Path) -> Path:
    """Copy the pages into the folder that zensical reads, and return it."""
    target = root / "build/docs"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "docs", target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in target.rglob("*.md"):
        up = "../" * (len(page.relative_to(target).parts) - 1)
        text = page.read_text("utf-8").replace(f"]({up}../", f"]({up}")
        page.write_text(text, encoding="utf-8")
    for file in (file for pattern in _OUTSIDE for file in root.glob(pattern)):
        copy = target / file.relative_to(root)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    return target


def build(root: Path) -> Iterator[str]:
    """Run zensical; yield what is wrong with the pages or the docstrings."""
    run = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout, run.stderr)
    yield from _COMPLAINT.findall(run.stderr + run.stdout)
    if run.returncode:
        yield f"zensical ended with status {run.returncode}"


def unlisted(pages: Path, nav: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each page that the navigation does not list, and each of its entries without a page."""
    found = {page.relative_to(pages).as_posix() for page in pages.rglob("*.md")}
    listed = set(_entries(nav))
    yield from (f"{page} is not in the navigation" for page in sorted(found - listed))
    yield from (f"{page} is in the navigation, but not there" for page in sorted(listed - found))


def broken(site: Path) -> Iterator[str]:
    """Yield each link of the built pages that leads nowhere."""
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc or path.name == "404.html":  # it may be shown anywhere
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(url.fragment)
            if not target.exists():
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} names no place of that page"


def _entries(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for below in entry.values():
            if isinstance(below, str):
                yield below
            else:
                yield from _entries(below)


class _Page(HTMLParser):
    """The links and the anchors of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.anchors.add(value)
            elif value and name in {"href", "src"}:
                self.links.add(value)


def main(root: Path) -> int:
    """Build the site of a repository, and return the exit status."""
    project = tomllib.loads((root / "zensical.toml").read_text("utf-8"))["project"]
    site = root / project["site_dir"]
    shutil.rmtree(site, ignore_errors=True)
    wrong = [*unlisted(gather(root), project["nav"]), *build(root)]
    if not wrong:  # else pages are missing, and every link to them would be told
        wrong = [*broken(site)]
    for line in wrong:
        print(line)
    print(f"{len(wrong)} faults" if wrong else f"the site is {site / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1]).resolve()))
