"""What every test can rely on: the engine's own defaults."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import settings

import manyhands as mh
from manyhands import _fork_safety

# How long an example takes is the machine's affair, which may be doing other things.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside(tmp_path_factory):
    """Keep the settings of the person who runs the tests away from them."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("MANYHANDS_")]:
            patch.delenv(variable)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        mh.config.refresh()
        yield
    mh.config.refresh()


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard():
    """Let signals reach the programs that tests start, also where the tests run in the background or under nohup."""
    # What is ignored is inherited; what is handled is not.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: lambda *_: None}
    ignored = [number for number in handlers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, handlers[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="module", autouse=True)
def forks_stay_possible():
    """Let no file of tests use here what keeps all that come after it from `scheduler="fork"`."""
    yield
    if sys.platform == "linux":
        _fork_safety.check()


@pytest.fixture
def counted():
    """How many copies into shared memory were made and avoided since the test began."""
    before = mh.shared.info()

    def since():
        now = mh.shared.info()
        return now.n_copies_made - before.n_copies_made, now.n_copies_avoided - before.n_copies_avoided

    return since
