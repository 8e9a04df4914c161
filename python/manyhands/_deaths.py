"""What is told of a worker that died under a task: what was found out, and what it means.

`error_for` makes the error from what the engine knows; `story` is its text. The stacks come from `faulthandler`, which
writes in each worker to a file that the parent reads afterwards.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from manyhands.errors import WorkerDied

__all__ = ["Result", "argument_sizes", "error_for", "size_text", "stack_of", "story"]

# How much of a container is looked at.
N_ITEMS_MAX = 1000
DEPTH_MAX = 6
# How much of a stack stands in the text; all of it is in the error.
N_STACK_LINES_SHOWN = 40
N_ARGUMENTS_SHOWN = 12

_CRASHES = frozenset(["SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGTRAP", "SIGSYS"])
_SIGNAL_WORDS = {
    "SIGABRT": "aborted",
    "SIGBUS": "bus error",
    "SIGFPE": "arithmetic error",
    "SIGILL": "illegal instruction",
    "SIGSEGV": "segmentation fault",
    "SIGSYS": "forbidden system call",
    "SIGTERM": "terminated",
    "SIGTRAP": "trap",
    "SIGXCPU": "CPU time limit exceeded",
    "SIGXFSZ": "file size limit exceeded",
}
# A peak of at least this share of all memory makes it likely that memory was the reason.
_LIKELY_SHARE = 0.4


class Result:
    """Stands for the result of another task among the arguments: it is not here, but its size is known."""

    def __init__(self, n_bytes: int | None) -> None:
        self.n_bytes = n_bytes


# From what the engine knows to the error


def error_for(task: str, key: str | None, called: tuple[Any, Any, Any] | None, facts: dict[str, Any]) -> WorkerDied:
    """The error for a task under which workers died.

    Parameters
    ----------
    task : str
        A short form of the call.
    key : str or None
        The task's key.
    called : tuple or None
        The function, its positional arguments and its keyword arguments, as far as they are at hand.
    facts : dict
        What the engine knows of the last death.
    """
    from manyhands.errors import WorkerDied, WorkerOutOfMemory

    stop, before = facts["stop"], facts["before"]
    error_type = WorkerOutOfMemory if stop is not None or facts["is_oom_kill"] else WorkerDied
    error = error_type(task, key, facts["pid"], facts["exitcode"], facts["signal"], facts["output"])
    if called is not None:
        function, args, kwargs = called
        error.function, error.file, error.line = place_of(function)
        error.argument_sizes = argument_sizes(function, args or (), kwargs or {})
    error.was_running = facts["was_running"]
    # What a process had at most is not known where the program itself had more when it started it.
    error.peak_is_exact = facts["peak_memory"] is not None
    error.peak_memory = facts["peak_memory"] or facts["memory_seen"] or None
    if stop is not None or error.signal_name in _CRASHES:
        error.stack = stack_of(facts["report"])
    if before is not None:
        error.earlier_pid = before["pid"]
        error.earlier_end = _end(before["exitcode"], before["signal"], before["stop"] is not None)
    error.cause = _cause(error, facts)
    if stop is not None:
        error.memory = stop["n_bytes"]
        error.memory_limit = stop["n_bytes_max"]
    return error


def place_of(function: Any) -> tuple[str | None, str | None, int | None]:
    """Name, file and line of what was called."""
    for _ in range(DEPTH_MAX):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)
        if inner is None and type(function).__qualname__ == "partial":
            inner = getattr(function, "func", None)
        if inner is None or not callable(inner):
            break
        function = inner
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(type(function).__dict__.get("__call__"), "__code__", None)
    if code is None and isinstance(function, type):
        code = getattr(getattr(function, "__init__", None), "__code__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    if isinstance(module, str) and module not in ("builtins", "__main__"):
        name = f"{module}.{name}"
    if code is None:
        return str(name), None, None
    return str(name), code.co_filename, code.co_firstlineno


# How large arguments are


def argument_sizes(function: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> dict[str, int]:
    """How many bytes each argument takes, about, by its name; those whose size cannot be told are left out."""
    args = tuple(args)
    sizes = {}
    for name, value in _named(function, args, kwargs).items():
        try:
            n_bytes = _size(value, 0, set())
        except Exception:  # any of the argument's own code may fail, and there is an error to be told
            n_bytes = None
        if n_bytes is not None:
            sizes[name] = n_bytes
    return sizes


def _named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    import inspect

    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*args, **kwargs)
    except Exception:  # what has no signature, or takes no such call
        return {**{f"argument {at}": value for at, value in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"*{name}[{at}]": each for at, each in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


def _size(value: Any, depth: int, seen: set[int]) -> int | None:
    """About how many bytes an object takes with all that belongs to it alone."""
    if isinstance(value, Result):
        return value.n_bytes
    wary = sys.modules.get("manyhands._wary")
    if wary is not None and isinstance(value, wary._StandIn):
        raise LookupError("what it stands for was not unpickled here")
    if id(value) in seen:
        return 0
    seen.add(id(value))
    own = sys.getsizeof(value, 0)
    if isinstance(value, (str, bytes, bytearray, int, float, complex, bool, type(None))):
        return own
    n_bytes = getattr(value, "nbytes", None)
    if n_bytes is None and callable(usage := getattr(value, "memory_usage", None)):
        n_bytes = usage()
        n_bytes = n_bytes.sum() if hasattr(n_bytes, "sum") else n_bytes
    if n_bytes is not None and not isinstance(value, type):
        return int(n_bytes)
    if depth >= DEPTH_MAX or isinstance(value, type) or callable(value):
        return own
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    looked_at = parts[:: max(1, len(parts) // N_ITEMS_MAX)]
    inside = sum(_size(part, depth + 1, seen) or 0 for part in looked_at)
    return own + (inside * len(parts) // len(looked_at) if looked_at else 0)


def size_text(n_bytes: float) -> str:
    """A number of bytes, in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} TiB"


# The stack


def stack_of(report: str) -> str:
    """What a fault handler has written last, without what lies below the task.

    Parameters
    ----------
    report : str
        A line with the number of frames to leave out, and of which thread; then what the handler wrote.
    """
    first, _, rest = report.partition("\n")
    words = first.split()
    n_below, thread = (int(words[0]), words[-1]) if len(words) == 5 and words[0].isdigit() else (0, "")
    start = rest.rfind("Fatal Python error")
    lines = []
    for section in _sections(rest[max(start, 0) :].splitlines()):
        is_tasks_own = bool(thread) and thread in section[0]
        lines.extend(_without(section, n_below) if is_tasks_own else section)
    return "\n".join(lines)


def _sections(lines: list[str]) -> list[list[str]]:
    """The stacks, each with its heading; other lines are left out."""
    sections: list[list[str]] = []
    for line in lines:
        if line.endswith("(most recent call first):"):
            sections.append([line])
        elif line.startswith("  ") and sections:
            sections[-1].append(line)
    return sections


def _without(section: list[str], n_below: int) -> list[str]:
    """A stack without its lowest frames; of one that was cut off, they are gone already."""
    if section[-1].strip() == "...":
        return section
    return section[: max(1, len(section) - n_below)]


# The text


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(exitcode: int | None, number: int | None, was_stopped: bool) -> str:
    """How a process ended, in words."""
    if was_stopped:
        return "stopped for the memory it took"
    if number is not None:
        name = signal_name(number)
        words = f" ({_SIGNAL_WORDS[name]})" if name in _SIGNAL_WORDS else ""
        return f"killed by {name}{words}"
    if exitcode is not None:
        return f"it exited with code {exitcode}"
    return "it is gone, and the system does not say how it ended"


def _cause(error: WorkerDied, facts: dict[str, Any]) -> str:
    """Why a worker has died, as far as it can be told."""
    stop = facts["stop"]
    if stop is not None:
        return _cause_of_stop(stop)
    if facts["is_oom_kill"]:
        return (
            "memory ran out, and the system's out-of-memory killer ended the worker: the system has counted such a "
            "kill at that time."
        )
    there = facts["memory_there"]
    if error.signal_name == "SIGKILL" and there and (error.peak_memory or 0) >= _LIKELY_SHARE * there:
        return (
            f"most likely the system's out-of-memory killer: the worker took up to {size_text(error.peak_memory or 0)}"
            f" of {size_text(there)} that there are."
        )
    return ""


def _cause_of_stop(stop: dict[str, Any]) -> str:
    n_workers = stop["n_workers"]
    all_of_them = (
        f"this worker took {size_text(stop['n_bytes'])} for itself"
        if n_workers == 1
        else f"this worker took {size_text(stop['n_bytes'])} for itself, and the {n_workers} workers together "
        f"{size_text(stop['n_bytes_all'])}"
    )
    limit = size_text(stop["n_bytes_max"])
    if stop["limit"] == "bytes":
        return f"too much memory: {all_of_them}. The setting worker_memory_limit allows them {limit}."
    where = "the machine" if stop["group"] is None else f"the control group {stop['group']}"
    share = "" if stop["share"] is None else f" (worker_memory_limit={stop['share']})"
    return (
        f"memory was running out: {all_of_them}. They may take {limit}{share}, as {where} has "
        f"{size_text(stop['n_bytes_there'])}, of which {size_text(stop['n_bytes_available'])} were left. The worker "
        f"was stopped before the system's out-of-memory killer would have ended it, or another."
    )


def story(error: WorkerDied) -> str:
    """The text of an error: what happened, what is known, why, and what can be done."""
    worker = "A worker process" if error.worker_pid is None else f"The worker process {error.worker_pid}"
    key = "" if error.key is None else f" (key {error.key!r})"
    when = "while it ran" if error.was_running else "before it had reported"
    end = _end(error.exitcode, error.signal, error.memory is not None)
    lines = [f"{worker} died {when} the task {error.task}{key}: {end}."]
    cause, advice = _explain(error)
    lines.append(f"Likely cause: {cause}")
    if error.function is not None:
        place = f', file "{error.file}", line {error.line}' if error.file is not None else ""
        lines.append(f"Function: {error.function}{place}")
    if error.argument_sizes:
        lines.append(f"Arguments: {_sizes_text(error.argument_sizes)}")
    if error.peak_memory is not None:
        when = "at most" if error.peak_is_exact else "when last looked at"
        lines.append(f"Memory of the worker: {size_text(error.peak_memory)} {when}.")
    lines.extend(_tries(error))
    stack = error.stack.splitlines()
    if stack:
        lines.append("Where it was:")
        lines.extend(f"  | {line}" for line in stack[:N_STACK_LINES_SHOWN])
        if len(stack) > N_STACK_LINES_SHOWN:
            lines.append(f"  | … {len(stack) - N_STACK_LINES_SHOWN} more lines in the error's attribute stack")
    written = error.output.rstrip().splitlines()
    if written:
        lines.append("The last lines that the worker wrote:")
        lines.extend(f"  | {line}" for line in written)
    else:
        lines.append("The worker wrote nothing to its output before that.")
    lines.append(f"What to do: {advice}")
    return "\n".join(lines)


def _tries(error: WorkerDied) -> list[str]:
    if not error.retried:
        return []
    alone = "while no other task ran" if error.memory is not None else "alone in another worker"
    if error.earlier_pid is None:
        return [f"The task was run once more, {alone}, and that worker died too."]
    return [
        f"The task was run twice. Before, it had ended worker {error.earlier_pid}: {error.earlier_end}. Then it was "
        f"run once more, {alone}."
    ]


def _sizes_text(sizes: dict[str, int]) -> str:
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:N_ARGUMENTS_SHOWN]
    shown = ", ".join(f"{name} {size_text(n_bytes)}" for name, n_bytes in largest)
    n_more = len(sizes) - len(largest)
    return f"{shown}, and {n_more} smaller ones." if n_more else f"{shown}."


_LESS_MEMORY = (
    "give each task less data, use fewer workers (num_workers) where several tasks are large at once, or more memory."
)


def _explain(error: WorkerDied) -> tuple[str, str]:
    """The likely cause, and what the user can do about it."""
    name = error.signal_name
    if error.memory is not None:
        return error.cause, (
            f"{_LESS_MEMORY[0].upper()}{_LESS_MEMORY[1:-1]}; where the limit is too low, raise the setting "
            f"worker_memory_limit, or switch it off with 'unlimited'."
        )
    if error.cause:
        return error.cause, f"{_LESS_MEMORY[0].upper()}{_LESS_MEMORY[1:]}"
    if name in _CRASHES:
        how = (
            "compiled code gave up, as a failed check or damaged memory makes it do (abort)"
            if name == "SIGABRT"
            else "compiled code crashed"
        )
        where = "the stack below shows where" if error.stack else "no stack could be written"
        return f"{how}, most likely in an extension module that the task calls; {where}.", (
            'Look at the call in compiled code that comes first in the stack, and its arguments. With scheduler="'
            'synchronous" under "python -X faulthandler", or in a debugger, the same call can be watched.'
        )
    if name == "SIGKILL" or (error.signal is None and error.exitcode is None):
        return "the system, which kills processes like this when memory runs out, or somebody with kill -9.", (
            f"If it was memory: {_LESS_MEMORY} If somebody ended the process on purpose, run the program again."
        )
    if name is not None:
        return f"somebody, a batch system or the task itself sent {name}.", (
            "See whether a limit of the batch system or of ulimit was reached; if somebody ended the process on "
            "purpose, run the program again."
        )
    return "something in the task ended the process, as os._exit() or a failing C library does.", (
        'Tasks must return or raise. With scheduler="synchronous" the same call can be watched in a debugger.'
    )
