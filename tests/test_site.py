"""The site is laid out as its pages expect, and what is wrong with it stops its build."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT / "tools"))

import build_site  # noqa: E402

WHERE = {
    "docs/index.md": "index.md",
    "docs/guide/one.md": "guide/one.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "benches/RESULTS.md": "project/results.md",
}


@pytest.mark.parametrize(
    ("page", "before", "after"),
    [
        ("docs/guide/one.md", "[r](../../benches/RESULTS.md#a-b)", "[r](../project/results.md#a-b)"),
        (
            "ARCHITECTURE.md",
            "[o](docs/guide/one.md) [w](docs/decisions/)",
            "[o](../guide/one.md) [w](../decisions/index.md)",
        ),
        ("ARCHITECTURE.md", "[licence](LICENSE) and [site](https://a.b/c.md)", "licence and [site](https://a.b/c.md)"),
        ("docs/index.md", "[here](#below) [code](guide/one.md)", "[here](#below) [code](guide/one.md)"),
        ("docs/index.md", "```\n[a](LICENSE)\n```\n[a](LICENSE)", "```\n[a](LICENSE)\n```\na"),
    ],
)
def test_links_follow_the_pages(page, before, after):
    assert build_site.with_links_of_the_site(before, page, WHERE) == after


def test_every_page_of_the_repository_has_a_place(tmp_path):
    build_site.lay_out(tmp_path / "pages")
    laid_out = {path.relative_to(tmp_path / "pages").as_posix() for path in (tmp_path / "pages").rglob("*.md")}
    assert laid_out == set(build_site.places().values())
    assert (tmp_path / "pages" / "conf.py").exists()


def test_links_between_built_pages_are_followed(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a> <a href="#x">x</a> <a href="https://c.d">c</a>')
    (tmp_path / "b.html").write_text(
        '<p id="there"></p> <a href="c.html">c</a> <img src="a.html?v=1"> <a href="a.html#no">'
    )
    assert build_site.broken_links(tmp_path) == ["a.html: #x", "b.html: a.html#no", "b.html: c.html"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Page\n\nHere is `mh.compute`, and `x.md`.\n", None),
        ("# Page\n\nHere is `mh.no_such_name(3)`.\n", "manyhands.no_such_name"),
        ("# Page\n\n[nowhere](missing.md)\n", "missing.md"),
        ("# Page\n\n[nowhere](index.md#missing)\n", "missing"),
    ],
)
def test_a_page_that_is_wrong_stops_the_build(tmp_path, capfd, text, said):
    pytest.importorskip("myst_parser", reason="the site is built where requirements/docs.txt is installed")
    pages = tmp_path / "pages"
    (pages / "_static").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", pages)
    shutil.copy(ROOT / "docs" / "_static" / "site.css", pages / "_static")
    tree = "```{toctree}\npage\n```\n\n```{eval-rst}\n.. autofunction:: manyhands.compute\n```\n"
    (pages / "index.md").write_text(f"# Site\n\n{tree}")
    (pages / "page.md").write_text(text)
    if said is None:
        build_site.build(pages, tmp_path / "site")
    else:
        with pytest.raises(SystemExit, match="could not be built"):
            build_site.build(pages, tmp_path / "site")
        assert said in capfd.readouterr().err
