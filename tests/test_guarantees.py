"""The guarantees and the list of conformance in the documentation name tests that exist, each one by one."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
DOCS = TESTS.parent / "docs"

# Pages, and how the headings of their tables begin.
PAGES = {"guarantees.md": "| what happens", "conformance.md": "| no."}


def rows(page):
    for line in (DOCS / page).read_text().splitlines():
        if line.startswith("| ") and not line.startswith(PAGES[page]):
            yield line


@pytest.mark.parametrize("page", PAGES)
def test_every_guarantee_names_a_test_that_exists(page):
    n_rows = 0
    for row in rows(page):
        for name in row.rstrip(" |").rpartition("|")[2].strip().split(", "):
            # A file is none: nobody knows what in it holds the row to its word.
            named = re.fullmatch(r"`((?:conformance/)?test_\w+\.py)::(test_\w+)`", name)
            assert named, f"{name!r} is no test, at the end of {row!r}"
            file, test = named.groups()
            assert (TESTS / file).exists(), row
            assert re.search(rf"^ *def {test}\(", (TESTS / file).read_text(), re.MULTILINE), (name, row)
        n_rows += 1
    assert n_rows > 20


def test_behaviours_are_numbered_within_their_section():
    section, n_rows = 0, 0
    for line in (DOCS / "conformance.md").read_text().splitlines():
        if heading := re.match(r"## (\d+)\. ", line):
            assert int(heading[1]) == section + 1
            assert section == 0 or n_rows > 0, f"section {section} has no row"
            section, n_rows = section + 1, 0
        elif row := re.match(r"\| (\d+)\.(\d+) \|", line):
            n_rows += 1
            assert (int(row[1]), int(row[2])) == (section, n_rows), line
    assert section == 13
    assert n_rows > 0
