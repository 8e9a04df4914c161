"""Every Python snippet in the documentation runs as it stands."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("docs/**/*.md"),
]

FENCE = re.compile(r"^ *```")


def python_lines(text: str) -> list[str]:
    """Keep the lines of python fences, and of diff fences what is new or stays; blank out all others.

    So line numbers stay.
    """
    lines: list[str] = []
    inside: str | None = None
    for line in text.splitlines():
        if FENCE.match(line):
            inside = line.strip().removeprefix("```").strip() if inside is None else None
            lines.append("")
        elif inside == "diff":
            lines.append("" if line.startswith("-") else line[1:])
        else:
            lines.append(line if inside == "python" else "")
    assert inside is None, "a ``` is not closed"
    return lines


def documents_with(*markers: str) -> list[Path]:
    texts = {path: path.read_text() for path in sorted(DOCUMENTS) if path.exists()}
    return [path for path, text in texts.items() if any(marker in text for marker in markers)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_only_python_fences_are_kept_at_their_lines():
    text = "Prose\n```python\nx = 1\n```\n```toml\ny = 2\n```\n```python\nz = 3\n```\n"
    assert python_lines(text) == ["", "", "x = 1", "", "", "", "", "", "z = 3", ""]


def test_of_a_diff_the_new_lines_are_kept():
    text = "```diff\n-import dask\n+import manyhands as dask\n\n def f():\n-    return 1\n+    return 2\n```\n"
    assert python_lines(text) == ["", "", "import manyhands as dask", "", "def f():", "", "    return 2", ""]


@pytest.mark.parametrize("path", documents_with("```python\n", "```diff\n"), ids=name_of)
def test_the_snippets_of_a_document_run_as_one_script(path, tmp_path):
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n".join(python_lines(path.read_text())) + "\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("MANYHANDS_")}
    ran = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{name_of(path)}: {ran.stderr}"


# Links

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benches/**/*.md", "crates/**/*.md")
    for path in ROOT.glob(pattern)
    if not {"target", "node_modules"} & set(path.parts)
)


def prose(text: str) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        n_before = sum(other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in found)
        found.add(f"{name}-{n_before}" if n_before else name)
    return found


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere within the repository."""
    broken = []
    for target in LINK.findall(prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # somewhere else
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    return broken


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, three!\n[a](#one-two-three) [b](other.md) [c](other.md#there) <https://a.b> [d](https://a.b#c)\n"
        "[e](#nowhere) [f](missing.md) [g](other.md#missing) `[h](code)`\n```\n[i](fenced)\n# not-a-heading\n```\n"
        "[j](#not-a-heading) [k](folder)\n"
    )
    (tmp_path / "other.md").write_text("## There\n")
    (tmp_path / "folder").mkdir()
    assert broken_links(page) == ["#nowhere", "missing.md", "other.md#missing", "#not-a-heading"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    assert broken_links(page) == []


# The reference


def public_names() -> list[str]:
    """Everything that the package and its public modules say is public."""
    import manyhands as mh

    names = []
    for name in mh.__all__:
        value = getattr(mh, name)
        if inspect.ismodule(value):
            assert value.__all__, f"{name} says what is public"
        names.append(f"manyhands.{name}")
    return names


@pytest.mark.parametrize("name", public_names())
def test_every_public_name_is_in_the_reference(name):
    reference = "".join(path.read_text() for path in sorted(ROOT.glob("docs/reference/*.md")))
    assert re.search(rf"^\.\. auto\w+:: {re.escape(name)}$", reference, flags=re.MULTILINE), (
        f"{name} is public and has no place on a page of docs/reference"
    )
