"""joblib's own tests of `Parallel`, run in place from the installed package, with `backend="manyhands"` in its lists.

Of each list of backends, the tests that are about ours are run (see `conftest.py`). What is left out, and why, is
listed in `LEFT_OUT`.
"""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("joblib.test.test_parallel", reason="joblib's own tests are not installed")

import manyhands.joblib

manyhands.joblib.register()

from joblib.test import test_parallel as theirs  # noqa: E402 - it makes its lists of what is registered

# It makes its lists as it is imported, and another test may have imported it before.
theirs = importlib.reload(theirs)
for backends in (theirs.PARALLEL_BACKENDS, theirs.PROCESS_BACKENDS):
    backends.append("manyhands")

from joblib.test.test_parallel import *  # noqa: E402, F403

UNKNOWN = "processes of loky, and programs that the tests start, have not registered our backend"
FILES = "asks for numpy.memmap, and for its file; here arrays are arrays, in shared memory"

LEFT_OUT = {
    "test_nested_loop[loky-manyhands]": UNKNOWN,
    "test_nested_loop[back_compat_backend-manyhands]": UNKNOWN,
    "test_backend_nesting_level[parallel_config-manyhands-loky]": UNKNOWN,
    "test_backend_nesting_level[parallel_backend-manyhands-loky]": UNKNOWN,
    "test_parallel_with_interactively_defined_functions": UNKNOWN,
    "test_auto_memmap_on_arrays_from_generator": FILES,
    "test_memmapping_leaks": FILES,
    "test_error_capture": "asks for new workers after an error; here those there are go on",
    "test_backend_batch_statistics_reset": "looks at the numbers of another way to choose batches",
}
