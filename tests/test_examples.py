"""Every example runs, on the interpreter that runs the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


#: Each example's options here, and something that it prints.
RUNS = {
    "first_steps.py": ([], "[1, 3, 4]"),
    "nested.py": ([], "fold 3: best penalty"),
    "tour.py": (["--quick"], "processes"),
}


def test_all_examples_are_run() -> None:
    assert sorted(RUNS) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.timeout(660)
@pytest.mark.parametrize("script", RUNS)
def test_example(script: str, tmp_path: Path) -> None:
    options, printed = RUNS[script]
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert printed in ended.stdout
    assert not ended.stderr
