"""The symbols of numeric libraries that are not installed here: small libraries that export them stand in."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import scripts

CC = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler (cc) to make the libraries with")

# What each is called, and how its functions are declared: a library whose numbers are wider than what it is called with
# would find anything in the upper half.
LIBRARIES = {
    "OpenBLAS": ("libopenblas_fake.so", "int", "openblas_set_num_threads", "openblas_get_num_threads"),
    "OpenBLAS of 64 bits": (
        "libopenblas64_fake.so",
        "int",
        "openblas_set_num_threads64_",
        "openblas_get_num_threads64_",
    ),
    "OpenBLAS of SciPy": (
        "libscipy_openblas_fake.so",
        "int",
        "scipy_openblas_set_num_threads",
        "scipy_openblas_get_num_threads",
    ),
    "MKL": ("libmkl_rt.so.2", "int", "MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
    "BLIS": ("libblis.so.4", "int64_t", "bli_thread_set_num_threads", "bli_thread_get_num_threads"),
    "OpenMP": ("libiomp5.so", "int", "omp_set_num_threads", "omp_get_max_threads"),
}

# What it was told last; at first what it uses by itself. OpenMP has a number for each thread.
SOURCE = """
#include <stdint.h>
static {per_thread} {type} n_threads = {own};
static int n_calls;
void {set}({type} n) {{ n_threads = n; __atomic_add_fetch(&n_calls, 1, __ATOMIC_SEQ_CST); }}
{type} {get}(void) {{ return n_threads; }}
int64_t what_it_was_told(void) {{ return n_threads; }}
int how_often(void) {{ return n_calls; }}
"""

PROGRAM = """
    import ctypes, sys
    import manyhands as mh
    from manyhands import _blas, config

    path, name, n_own = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config.refresh()
    config._state.n_cpus = 12
    library = ctypes.CDLL(path)
    told = library.what_it_was_told
    told.restype = ctypes.c_int64
    # As they are found once a module is there that brings them.
    sys.modules["numpy"] = type(sys)("numpy")

    def found():
        return [(one.name, one.n_threads) for one in _blas.libraries() if one.path == path]

    assert found() == [(name, n_own)], _blas.libraries()
    assert _blas._found[path][1].is_wide == (sys.argv[4] == "int64_t")
    assert library.how_often() == 0
    with mh.blas_threads(3) as libraries:
        assert told() == 3
        assert [one.n_threads for one in libraries if one.path == path] == [3]
        with mh.blas_threads(10_000):
            assert (told(), found()) == (10_000, [(name, 10_000)])
        assert told() == 3
    assert (told(), found()) == (n_own, [(name, n_own)])
    shares = mh.map(lambda _: told(), range(8), scheduler="threads", num_workers=4)
    assert shares == [3] * 8, shares
    print("well")
"""


def build(folder, kind, own):
    file, type_, setter, getter = LIBRARIES[kind]
    per_thread = "_Thread_local" if kind == "OpenMP" else ""
    source = folder / "fake.c"
    source.write_text(SOURCE.format(type=type_, set=setter, get=getter, own=own, per_thread=per_thread))
    path = folder / file
    subprocess.run([CC, "-shared", "-fPIC", "-o", path, source], check=True, timeout=scripts.PATIENCE_S)
    return path


@pytest.mark.parametrize("kind", LIBRARIES)
def test_libraries_are_told_how_many_threads_they_may_use(kind, tmp_path):
    path = build(tmp_path, kind, own=7)
    outcome = scripts.run(tmp_path, PROGRAM, path, kind.split()[0], 7, LIBRARIES[kind][1])
    scripts.check(outcome, "well\n")
