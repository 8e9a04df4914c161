"""The guarantees in the documentation name tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
GUARANTEES = TESTS.parent / "docs" / "guarantees.md"


def rows():
    for line in GUARANTEES.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| what happens"):
            yield line


def test_every_guarantee_names_a_test_that_exists():
    n_rows = 0
    for row in rows():
        last = row.rstrip(" |").rpartition("|")[2]
        named = re.fullmatch(r" `((?:conformance/)?test_\w+\.py)(?:::(test_\w+))?`", last)
        assert named, f"no test is named at the end of {row!r}"
        file, test = named.groups()
        assert (TESTS / file).exists(), row
        assert test is None or f"def {test}(" in (TESTS / file).read_text(), row
        n_rows += 1
    assert n_rows > 20
