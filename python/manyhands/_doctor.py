"""``manyhands doctor``: what there is on this machine, what of it holds, and whether every scheduler works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import manyhands
from manyhands import _native, _pools, config
from manyhands._deaths import size_text
from manyhands.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SCHEDULERS = ("synchronous", "threads", "processes", "fork")
# What all schedulers together may take, whatever hangs. A test takes a second or two; on a machine that is busy with
# something else it may take many times as long.
SELF_TEST_TIMEOUT_S = 120.0
GPU_TIMEOUT_S = 20

_TRY = "import sys; from manyhands import _selftest; _selftest.main(sys.argv[1])"

# What other engines and the libraries that matter here are called by their installers.
_PACKAGES = (
    "cloudpickle",
    "numpy",
    "scipy",
    "pandas",
    "polars",
    "pyarrow",
    "scikit-learn",
    "torch",
    "joblib",
    "dask",
    "distributed",
    "ray",
)


@dataclass
class Section:
    """A part of the report: what was asked, and the answer."""

    title: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, value: object) -> None:
        """Add a row."""
        self.rows.append((name, str(value)))


@dataclass
class Report:
    """What was found."""

    sections: list[Section] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What does not work."""
    advice: list[str] = field(default_factory=list)
    """What works, and may not be as its user thinks."""


def duration(seconds: float) -> str:
    """A time for people."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


# The parts


def interpreter(report: Report) -> Section:
    """The interpreter and the package."""
    import platform

    section = Section("Interpreter")
    section.add("Python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable or '?'}")
    is_free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    section.add("global lock", "no: threads run Python code in parallel" if is_free else "yes: threads share one")
    section.add("manyhands", f"{manyhands.__version__}, {os.path.dirname(os.path.abspath(manyhands.__file__))}")
    section.add("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    if platform.system() != "Linux":
        report.advice.append("manyhands is tested on Linux only, and the scheduler 'fork' exists there alone.")
    if not sys.executable:
        report.problems.append("sys.executable is empty, so worker processes cannot be started (an embedded Python?).")
    return section


def cpus(report: Report) -> Section:
    """How many CPUs may be used, and who says so."""
    section = Section("CPUs")
    limits = _native._cpu_limits()
    n_cpus = manyhands.cpu_count()
    machine = os.cpu_count() or n_cpus
    section.add("this machine", machine)
    for source, number in limits:
        section.add(_cpu_source(source), number)
    deciding = [_cpu_source(source) for source, number in limits if number == n_cpus]
    why = "as many as the machine has" if n_cpus == machine else f"the smallest: {deciding[0]}"
    section.add("manyhands.cpu_count()", f"{n_cpus}, {why}")
    openmp = [source for source, number in limits if number == n_cpus and source.startswith("OMP_")]
    rest = min([number for source, number in limits if not source.startswith("OMP_")])
    if openmp and rest > n_cpus:
        report.advice.append(
            f"{openmp[0]}={os.environ[openmp[0]]} makes {n_cpus} the default number of workers; without it, that "
            f"would be {rest}. If it is set to hold libraries back, say num_workers={rest}: workers do that anyway."
        )
    elif n_cpus == 1:
        report.advice.append(f"There is one CPU for this process ({deciding[0]}): parallel calls gain nothing.")
    return section


def _cpu_source(source: str) -> str:
    if source == "affinity":
        return "bound to this process (affinity)"
    return f"quota of the control group ({source})" if "/" in source else f"in the environment ({source})"


def memory(report: Report) -> Section:
    """How much memory there is, who limits it, and what results may take of it."""
    section = Section("Memory")
    limits = _native._memory_limits()
    if not limits:
        section.add("this machine", "the system does not say")
        return section
    machine, *groups = limits
    section.add("this machine", f"{size_text(machine[1])}, of which {size_text(machine[2])} can be had now")
    # A group without a limit has a number that no machine reaches.
    limiting = [group for group in groups if group[1] < machine[1]]
    for source, n_bytes, n_bytes_available in limiting:
        section.add(
            f"control group ({source})", f"{size_text(n_bytes)}, of which {size_text(n_bytes_available)} can be had now"
        )
    if not limiting:
        section.add("control groups", "set no limit below that")
    available = min(left for _, _, left in limits)
    try:
        limit = config.get("memory_limit")
    except ConfigError:  # told with the configuration
        return section
    said = (
        f"{limit:.0%} of that, {size_text(int(limit * available))}" if isinstance(limit, float) and limit <= 1 else None
    )
    if said is None:
        said = "no limit" if limit == float("inf") else size_text(int(limit))
    section.add("results that wait may take", said)
    try:
        import resource
    except ImportError:
        return section
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        section.add("address space of a process (ulimit -v)", size_text(address_space))
        report.advice.append("ulimit -v limits address space, of which shared memory takes much without using it.")
    return section


def shared_memory(report: Report) -> Section:
    """Whether processes can share memory."""
    section = Section("Shared memory")
    try:
        descriptor = os.memfd_create("manyhands-doctor")
        try:
            os.posix_fallocate(descriptor, 0, 1 << 20)
        finally:
            os.close(descriptor)
        section.add("files in memory (memfd)", "can be made: large data is copied once at most")
    except (AttributeError, OSError) as error:
        section.add("files in memory (memfd)", f"cannot be made: {error}")
        report.advice.append(
            f"There is no shared memory ({error}): large data goes through sockets, which takes longer."
        )
    section.add("huge pages for them", _huge_pages())
    section.add("open files a process may have", _open_files(report))
    try:
        there = os.statvfs("/dev/shm")
        section.add("/dev/shm", f"{size_text(there.f_frsize * there.f_blocks)} (other libraries' way; not used here)")
    except OSError:
        section.add("/dev/shm", "not there (other libraries' way; not used here)")
    return section


def _huge_pages() -> str:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled") as file:
            chosen = file.read()
    except OSError:
        return "the system does not say"
    return chosen.partition("[")[2].partition("]")[0] or chosen.strip()


def _open_files(report: Report) -> str:
    try:
        import resource
    except ImportError:
        return "the system does not say"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_workers = manyhands.cpu_count()
    if soft != resource.RLIM_INFINITY and soft < 64 + 8 * n_workers:
        report.advice.append(f"A process may have {soft} files open (ulimit -n), few for {n_workers} workers.")
    return "any number" if soft == resource.RLIM_INFINITY else f"{soft} (at most {hard}, ulimit -n)"


def libraries(report: Report) -> Section:
    """The libraries that start threads of their own, and how many."""
    section = Section("Libraries with threads of their own")
    for name in ("numpy", "scipy.linalg"):
        try:
            __import__(name)
        except ImportError:
            pass
        except Exception as error:
            report.problems.append(f"import {name} fails: {type(error).__name__}: {error}")
    from manyhands import _blas

    for found in _blas.libraries():
        section.add(found.name, f"{found.n_threads} threads here, {os.path.basename(found.path)}")
    if not section.rows:
        section.add("loaded", "none")
    try:
        n_workers = config.resolve()[1]
    except ConfigError:  # told with the configuration
        return section
    values, free, *_ = _pools.thread_limits(config.resolve_plan(None, None, None)[3])
    for name, number in ((name, values[name]) for name in free):
        if name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            section.add(f"{name} in each of {n_workers} workers", number)
    for name in _pools.THREAD_VARIABLES:
        if name in os.environ:
            section.add(f"{name} in the environment", f"{os.environ[name]} (left alone)")
    return section


def gpus(report: Report) -> Section:
    """The GPUs that tasks can use."""
    section = Section("GPUs")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        section.add("CUDA_VISIBLE_DEVICES", visible or "empty: programs see none")
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(
            query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        pass
    except (OSError, subprocess.TimeoutExpired) as error:
        section.add("nvidia-smi", f"fails: {error}")
    else:
        if asked.returncode == 0:
            for line in asked.stdout.splitlines():
                index, _, rest = line.partition(",")
                section.add(f"NVIDIA {index.strip()}", rest.strip())
        else:
            section.add("nvidia-smi", f"fails: {(asked.stdout + asked.stderr).strip():.200}")
    if os.path.exists("/dev/kfd"):
        section.add("AMD", "/dev/kfd is there")
    if not section.rows:
        section.add("found", "none")
    return section


def packages(report: Report) -> Section:
    """The packages that matter here, and other engines."""
    from importlib.metadata import PackageNotFoundError, version

    section = Section("Installed beside manyhands")
    missing = []
    for name in _PACKAGES:
        try:
            section.add(name, version(name))
        except PackageNotFoundError:
            missing.append(name)
    section.add("not there", ", ".join(missing) or "none of the list")
    return section


def configuration(report: Report) -> Section:
    """The settings in force, and where each comes from."""
    section = Section("Configuration")
    try:
        described = config.describe()
    except ConfigError as error:
        report.problems.append(f"The configuration is not accepted: {error}")
        section.add("not accepted", error)
        return section
    for line in described.splitlines():
        name, _, value = line.partition(" = ")
        section.add(name, value)
    return section


# The self-test


def try_scheduler(scheduler: str, timeout_s: float) -> dict[str, Any]:
    """Try a scheduler in a process of its own.

    Parameters
    ----------
    scheduler : str
        Its name.
    timeout_s : float
        How many seconds it may take.

    Returns
    -------
    dict
        What `manyhands._selftest.look` returns; where the process came to no end, only its failures.
    """
    # Each is to be tried, whichever is the only one to be used.
    variables = {name: value for name, value in os.environ.items() if name != "MANYHANDS_FORCE"}
    command = [sys.executable, *_pools._interpreter_options(), "-c", _TRY, scheduler]
    try:
        ran = subprocess.run(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = _amid(late.stdout) + _last_lines(late.stderr)
        return {"failures": [f"it came to no end within {timeout_s:.0f} seconds{said}"]}
    except OSError as error:
        return {"failures": [f"no interpreter could be started: {error}"]}
    try:
        found: dict[str, Any] = json.loads("".join(_lines(ran.stdout)[-1:]))
    except ValueError:
        said = _amid(ran.stdout) + _last_lines(ran.stderr)
        return {"failures": [f"the test ended with status {ran.returncode}{said}"]}
    return found


def _lines(text: str | bytes | None) -> list[str]:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return (text or "").strip().splitlines()


def _amid(text: str | bytes | None) -> str:
    return "".join(f", amid: {what}" for what in _lines(text)[-1:])


def _last_lines(text: str | bytes | None) -> str:
    lines = _lines(text)[-8:]
    return "".join(f"\n      | {line}" for line in lines)


def self_test(report: Report, watch: Callable[[str], None]) -> Section:
    """Try every scheduler."""
    section = Section("Self-test")
    deadline_s = time.monotonic() + SELF_TEST_TIMEOUT_S
    for n_tried, scheduler in enumerate(SCHEDULERS):
        if scheduler == "fork" and not sys.platform.startswith("linux"):
            section.add(scheduler, "not here: Linux only")
            continue
        watch(f"trying {scheduler} ...")
        # One that hangs leaves the others their shares.
        share_s = (deadline_s - time.monotonic()) / (len(SCHEDULERS) - n_tried)
        found = try_scheduler(scheduler, max(share_s, 0.0))
        if found["failures"]:
            section.add(scheduler, "does not work:" + "".join(f"\n    {failure}" for failure in found["failures"]))
            report.problems.append(f"scheduler {scheduler!r} does not work: {found['failures'][0].splitlines()[0]}")
            continue
        n_workers = found["n_workers"]
        said = f"works; first result after {duration(found['first_s'])}, a call takes {duration(found['call_s'])}"
        if scheduler != "synchronous":
            workers = "one worker runs" if n_workers == 1 else f"{n_workers} workers run"
            said += f"; {workers} Python code {found['gain']:.1f} times as fast as a loop"
        section.add(scheduler, said)
    watch("")
    return section


PARTS: tuple[Callable[[Report], Section], ...] = (
    interpreter,
    cpus,
    memory,
    shared_memory,
    libraries,
    gpus,
    packages,
    configuration,
)


def examine(*, run: bool, watch: Callable[[str], None]) -> Report:
    """Look at everything.

    Parameters
    ----------
    run : bool
        Whether to try the schedulers as well.
    watch : callable
        Called with what is being done; with an empty text in the end.

    Returns
    -------
    Report
    """
    report = Report()
    for part in PARTS:
        report.sections.append(part(report))
    if run and report.problems:
        report.advice.append("The schedulers were not tried: what is wrong has to be put right first.")
    elif run:
        report.sections.append(self_test(report, watch))
    return report


def written(report: Report) -> str:
    """The report as text."""
    lines = []
    for section in report.sections:
        width = max((len(name) for name, _ in section.rows), default=0)
        lines += [section.title, *(f"  {name:<{width}}  {value}" for name, value in section.rows), ""]
    for title, texts in (("Does not work", report.problems), ("Worth knowing", report.advice)):
        if texts:
            lines += [title, *(f"  * {text}" for text in texts), ""]
    lines.append("Something does not work." if report.problems else "Everything works.")
    return "\n".join(lines)


def main(*, as_json: bool, self_test: bool) -> int:
    """Examine this machine, print what was found, and return the exit status."""

    def watch(text: str) -> None:
        """Say what takes a moment, to somebody who looks."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    report = examine(run=self_test, watch=watch)
    if as_json:
        found = {section.title: dict(section.rows) for section in report.sections}
        print(json.dumps({"report": found, "problems": report.problems, "advice": report.advice}, indent=2))
    else:
        text = written(report)
        if not self_test and not report.problems:
            text = text.removesuffix("Everything works.") + "Nothing was tried."
        print(text)
    return 1 if report.problems else 0
