"""Build the documentation site: the pages of docs/, those of the project beside them, and the reference.

Runs in the environment that has Sphinx (requirements/docs.txt) and manyhands installed, and needs no network. Warnings
are errors: a link that leads nowhere, a name that is not there, a page that is in no list.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from environment import ROOT

# Pages that live elsewhere in the repository, and where they stand on the site.
ELSEWHERE = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "STYLE.md": "project/style.md",
    "benches/README.md": "project/benchmarks.md",
    "benches/RESULTS.md": "project/results.md",
}
# What links may name without being a page, and the page that takes its place.
INSTEAD = {"README.md": "index.md", "docs/decisions": "decisions/index.md"}

FENCED = re.compile(r"^( *`{3,}|~{3,})(.*?)^\1 *$", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def places(folder: Path = ROOT) -> dict[str, str]:
    """Where each page of the repository stands on the site, both as paths with slashes."""
    docs = {
        path.relative_to(folder).as_posix(): path.relative_to(folder / "docs").as_posix()
        for path in sorted((folder / "docs").rglob("*.md"))
    }
    return {**docs, **ELSEWHERE}


def with_links_of_the_site(text: str, page: str, where: dict[str, str]) -> str:
    """Have the links of a page lead to where the other pages stand; one to what is not on the site becomes text."""
    here = posixpath.dirname(page)

    def moved(found: re.Match[str]) -> str:
        words, target = found.groups()
        file, _, anchor = target.partition("#")
        if not file or re.match(r"[a-z]+:", target):
            return found[0]
        source = posixpath.normpath(posixpath.join(here, file))
        new = where.get(source) or INSTEAD.get(source)
        if new is None:
            return words
        path = posixpath.relpath(new, posixpath.dirname(where[page]) or ".")
        return f"[{words}]({path}{'#' if anchor else ''}{anchor})"

    parts: list[str] = []
    end = 0
    for fence in FENCED.finditer(text):
        parts += [LINK.sub(moved, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(moved, text[end:])])


def lay_out(target: Path, folder: Path = ROOT) -> None:
    """Write what the site is made of to a folder, each page in its place."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "docs", target, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    where = places(folder)
    for page, place in where.items():
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(with_links_of_the_site((folder / page).read_text(), page, where))


class _Page(HTMLParser):
    """What a page of HTML can be linked to by, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of names and links."""
        for name, value in attrs:
            if value and (name == "id" or (name == "name" and tag == "a")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.add(unquote(value))


def broken_links(site: Path) -> list[str]:
    """Name the links between the built pages that lead nowhere, each with the page that has it."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            if re.match(r"[a-z]+:|//", target):
                continue  # somewhere else
            file, _, anchor = target.partition("#")
            file = file.partition("?")[0]
            there = Path(os.path.normpath(path.parent / file)) if file else path
            is_there = there.exists() if there not in pages or not anchor else anchor in pages[there].anchors
            if not is_there:
                broken.append(f"{path.relative_to(site)}: {target}")
    return broken


def build(pages: Path, out: Path) -> None:
    """Have Sphinx build what is laid out; exit with what it says where it is not content."""
    shutil.rmtree(out, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    # The person who builds may have set these for programs of their own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MANYHANDS_")}
    command = [*sphinx, "-b", "html", "-d", str(out.with_name(f"{out.name}-doctrees")), str(pages), str(out)]
    status = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        sys.exit(f"error: the site could not be built (status {status}); its pages are laid out in {pages}")
    broken = broken_links(out)
    if broken:
        sys.exit("\n".join(["error: links that lead nowhere:", *broken]))


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "site", help="where the pages go")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    pages = out.with_name(f"{out.name}-pages")
    lay_out(pages)
    build(pages, out)
    n_pages = sum(1 for _ in out.rglob("*.html"))
    print(f"site: {n_pages} pages, {out / 'index.html'}")


if __name__ == "__main__":
    main()
