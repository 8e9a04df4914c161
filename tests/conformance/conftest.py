"""The executors: every test of this folder runs on each of them, through the settings alone."""

from __future__ import annotations

import dataclasses
import os

import pytest

import manyhands as mh


@dataclasses.dataclass(frozen=True)
class Where:
    """An executor under test."""

    scheduler: str
    num_workers: int

    @property
    def is_processes(self) -> bool:
        return self.scheduler == "processes"

    @property
    def is_fork(self) -> bool:
        return self.scheduler == "fork"

    @property
    def is_elsewhere(self) -> bool:
        """Whether tasks run in other processes, to which results at least must be pickled."""
        return self.is_processes or self.is_fork

    @property
    def is_synchronous(self) -> bool:
        return self.scheduler == "synchronous"

    def __str__(self) -> str:
        return self.scheduler if self.is_synchronous else f"{self.scheduler}-{self.num_workers}"


#: With ``FEW_PLACES`` set, each scheduler once: how many workers there are is no matter of the interpreter's version.
NUMBERS_OF_WORKERS = [2] if os.environ.get("FEW_PLACES") else [1, 2, 3]

PLACES = [
    Where("synchronous", 1),
    *(Where(scheduler, n) for scheduler in ("threads", "processes") for n in NUMBERS_OF_WORKERS),
    Where("fork", 2),
]


def pytest_collection_modifyitems(items):
    """A file may name the numbers of workers that are enough for it, and a test that it is about processes."""

    def is_meant(item):
        numbers = getattr(getattr(item, "module", None), "NUM_WORKERS", None)
        place = item.callspec.params.get("where") if hasattr(item, "callspec") else None
        if place is not None and "elsewhere" in item.fixturenames and not place.is_elsewhere:
            return False
        return numbers is None or place is None or place.is_synchronous or place.num_workers in numbers

    items[:] = [item for item in items if is_meant(item)]


# Of the module, so that pytest runs all tests of a file in one place before it goes to the next.
@pytest.fixture(scope="module", params=PLACES, ids=str)
def where(request) -> Where:
    return request.param


@pytest.fixture
def elsewhere(where) -> Where:
    """For tests whose tasks end their process, which must not be this one: they exist in such places only."""
    assert where.is_elsewhere
    return where


@pytest.fixture(autouse=True)
def run_there(where):
    """Have everything run on the executor under test, without any test saying so."""
    with mh.config.set(scheduler=where.scheduler, num_workers=where.num_workers):
        yield
