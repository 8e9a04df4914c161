"""Which of the peers' own tests are about manyhands."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter):
    """Say which of them could not be run here, in a line that the summary of a check repeats."""
    for report in terminalreporter.stats.get("skipped", ()):
        if isinstance(report, pytest.CollectReport):
            terminalreporter.write_line(f"peers: {report.nodeid} was NOT RUN: {report.longrepr[2]}")


def pytest_collection_modifyitems(config, items):
    """Of joblib's tests, leave those that run on our backend, and skip those that cannot."""
    theirs = [item for item in items if item.path.name == "test_joblib_parallel.py"]
    if not theirs:
        return
    from manyhands.joblib import Backend

    left_out = theirs[0].module.LEFT_OUT
    others = set()
    for item in theirs:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        is_ours = any(param == "manyhands" or isinstance(param, Backend) for param in params.values())
        if not is_ours:
            others.add(item)
        for name, reason in left_out.items():
            if name in (item.name, item.originalname):
                item.add_marker(pytest.mark.skip(reason=reason))
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]
