"""Workers find what tasks need, however the program was started and wherever it defines its functions."""

import itertools
import os
import sys
import zipapp

import pytest
from scripts import PATIENCE_S, Program, check, run, write

# One of each kind of thing that a program may hand over. No guard: the program is not run again in workers.
PROGRAM = """
import dataclasses
import enum
import functools
import manyhands as mh

mh.config.set(scheduler="processes", num_workers=2)

OFFSET = 100

def plain(item):
    return item + OFFSET

def calls_another(item):
    return plain(item) * 2

def recursive(item):
    return 1 if item < 2 else item * recursive(item - 1)

def closure(factor):
    def inner(item):
        return item * factor + OFFSET
    return inner

@functools.wraps(plain)
def wrapped(item):
    return -plain(item)

def decorate(function):
    @functools.wraps(function)
    def wrapper(item):
        return ("decorated", function(item))
    return wrapper

@decorate
def decorated(item):
    return item

@dataclasses.dataclass(frozen=True)
class Point:
    x: int

    def moved(self, by):
        return Point(self.x + by)

    @staticmethod
    def static(item):
        return Point(item)

    @classmethod
    def made(cls, item):
        return cls(item)

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Callable:
    def __init__(self, power):
        self.power = power

    def __call__(self, item):
        return item ** self.power

    def method(self, item):
        return item - self.power

class Outer:
    class Inner:
        square = staticmethod(lambda item: item * item)

def swap(colour):
    return {Colour.RED: Colour.BLUE, Colour.BLUE: Colour.RED}[colour]

items = [1, 2, 3]
assert mh.map(plain, items) == [101, 102, 103]
assert mh.map(calls_another, items) == [202, 204, 206]
assert mh.map(recursive, items) == [1, 2, 6]
assert mh.map(closure(7), items) == [107, 114, 121]
assert mh.map(wrapped, items) == [-101, -102, -103]
assert mh.map(decorated, items) == [("decorated", item) for item in items]
assert mh.map(lambda item: item + OFFSET, items) == [101, 102, 103]
assert mh.map(functools.partial(pow, 2), items) == [2, 4, 8]
assert mh.map(functools.partial(calls_another), items) == [202, 204, 206]
assert mh.map(Point, items) == [Point(1), Point(2), Point(3)]
assert mh.map(Point(5).moved, items) == [Point(6), Point(7), Point(8)]
assert mh.map(Point.static, items) == mh.map(Point.made, items) == mh.map(Point, items)
assert all(type(point) is Point for point in mh.map(Point, items))
assert mh.map(swap, [Colour.RED, Colour.BLUE]) == [Colour.BLUE, Colour.RED]
assert mh.map(Callable(3), items) == [1, 8, 27]
assert mh.map(Callable(1).method, items) == [0, 1, 2]
assert mh.map(Outer.Inner.square, items) == [1, 4, 9]
assert mh.compute([mh.delayed(plain)(item) for item in items]) == ([101, 102, 103],)
assert mh.submit(closure(2), 5).result() == 110
assert list(mh.stream(calls_another, items)) == [202, 204, 206]
OFFSET = 200
assert mh.map(plain, items) == [201, 202, 203], "a global that has changed is seen"
print("right")
"""


def command(folder, how):
    """The command that starts the program in one of the ways there are."""
    if how == "file":
        return [str(write(folder, PROGRAM))], {}
    if how == "relative file":
        write(folder, PROGRAM)
        return ["program.py"], {"cwd": folder}
    if how == "module":
        write(folder, PROGRAM)
        return ["-m", "program"], {"cwd": folder}
    if how == "package":
        (folder / "package").mkdir()
        (folder / "package" / "__init__.py").touch()
        write(folder / "package", PROGRAM, "__main__.py")
        return ["-m", "package"], {"cwd": folder}
    if how == "folder":
        write(folder, PROGRAM, "__main__.py")
        return [str(folder)], {}
    if how == "zip":
        (folder / "app").mkdir()
        write(folder / "app", PROGRAM, "__main__.py")
        zipapp.create_archive(folder / "app", folder / "app.pyz")
        return [str(folder / "app.pyz")], {}
    if how == "-c":
        return ["-c", PROGRAM], {}
    if how == "interactive":
        return ["-i", str(write(folder, PROGRAM))], {}
    if how == "isolated":
        return ["-I", str(write(folder, PROGRAM))], {}
    path = write(folder, PROGRAM)
    return ["-"], {"stdin": open(path)}


WAYS = ["file", "relative file", "module", "package", "folder", "zip", "-c", "interactive", "isolated", "stdin"]


@pytest.mark.parametrize("how", WAYS)
def test_a_program_started_in_any_way_needs_no_guard(how, tmp_path):
    arguments, options = command(tmp_path, how)
    with Program([sys.executable, *arguments], **options) as program:
        outcome = program.wait()
    assert outcome.returncode == 0, outcome
    assert outcome.stdout == "right\n", outcome
    if how != "interactive":
        assert outcome.stderr == "", outcome


def test_a_module_beside_the_script_is_found(tmp_path):
    write(tmp_path, "BASE = 10\ndef add(item):\n    return item + BASE\nclass Thing:\n    pass\n", "beside.py")
    (tmp_path / "package" / "inner").mkdir(parents=True)
    write(tmp_path / "package", "from .other import double\n", "__init__.py")
    write(tmp_path / "package", "def double(item):\n    return 2 * item\n", "other.py")
    write(tmp_path / "package" / "inner", "", "__init__.py")
    write(
        tmp_path / "package" / "inner",
        "from ..other import double\ndef four(i):\n    return 2 * double(i)\n",
        "deep.py",
    )
    source = """
        import beside, package
        from package.inner import deep
        import manyhands as mh

        mh.config.set(scheduler="processes", num_workers=2)
        assert mh.map(beside.add, [1, 2]) == [11, 12]
        assert all(type(thing) is beside.Thing for thing in mh.map(lambda _: beside.Thing(), [1, 2]))
        assert mh.map(package.double, [1, 2]) == [2, 4]
        assert mh.map(deep.four, [1, 2]) == [4, 8]
        assert mh.map(lambda item: deep.four(item) + beside.add(item), [1]) == [15]
        print("right")
    """
    # From elsewhere: it is the script's folder that counts.
    check(run(tmp_path, source, cwd="/"), "right\n")


def test_changes_of_the_import_path_and_the_folder_are_followed(tmp_path):
    (tmp_path / "later").mkdir()
    write(tmp_path / "later", "def late(item):\n    return ('late', item)\n", "late_module.py")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "numbers.txt").write_text("7")
    source = """
        import os, sys
        import manyhands as mh

        mh.config.set(scheduler="processes", num_workers=2)
        here = os.path.dirname(os.path.abspath(__file__))
        mh.map(abs, [-1, -2])
        sys.path.append(os.path.join(here, "later"))
        import late_module
        assert mh.map(late_module.late, [1, 2]) == [("late", 1), ("late", 2)]
        os.chdir(os.path.join(here, "data"))
        assert mh.map(lambda _: open("numbers.txt").read(), [1, 2]) == ["7", "7"]
        os.chdir(here)
        assert mh.map(lambda _: os.path.exists("numbers.txt"), [1, 2]) == [False, False]
        sys.argv[1:] = ["--fast"]
        assert mh.map(lambda _: sys.argv[1:], [1]) == [["--fast"]]
        print("right")
    """
    check(run(tmp_path, source), "right\n")


def test_a_folder_that_has_been_removed_is_no_obstacle(tmp_path):
    (tmp_path / "gone").mkdir()
    source = """
        import os
        import manyhands as mh

        mh.config.set(scheduler="processes", num_workers=2)
        os.chdir("gone")
        os.rmdir("../gone")
        assert mh.map(abs, [-1, -2]) == [1, 2]
        print("right")
    """
    check(run(tmp_path, source, cwd=tmp_path), "right\n")


RELOADS = """
    import importlib, os, sys
    import edited, uses
    import manyhands as mh
    from manyhands import _pools

    def rewrite(number):
        with open(edited.__file__, "w") as file:
            # Of another length each time: compiled files are told apart by seconds and lengths.
            file.write(f"def value(item):\\n    return item + {number}\\nNUMBER = {number}\\n" + "#" * number)
        importlib.invalidate_caches()

    sys.dont_write_bytecode = True
    mh.config.set(scheduler="processes", num_workers=2)
    assert mh.map(edited.value, [1, 2]) == [1, 2]
    assert mh.map(uses.through, [1, 2]) == [1, 2]
    for number in (10, 20):
        old = set(_pools._processes.worker_pids())
        rewrite(number)
        {again}
        right = [1 + number, 2 + number]
        assert mh.map(edited.value, [1, 2]) == right, mh.map(edited.value, [1, 2])
        assert mh.map(uses.through, [1, 2]) == right
        assert mh.map(lambda item: edited.value(item), [1, 2]) == right
        assert mh.compute([mh.delayed(edited.value)(item) for item in (1, 2)]) == (right,)
        assert mh.submit(edited.value, 1).result() == right[0]
        assert mh.map(lambda _: edited.NUMBER, [1]) == [number]
        new = set(_pools._processes.worker_pids())
        assert not old & new
        mh.map(abs, [-1])
        assert set(_pools._processes.worker_pids()) == new
    print("right")
"""

AGAINS = {
    "reload": "importlib.reload(edited)",
    "import anew": "del sys.modules['edited']; import edited; uses.edited = edited",
}


@pytest.mark.parametrize("how", AGAINS)
def test_a_module_that_is_loaded_anew_is_loaded_anew_in_workers(how, tmp_path):
    write(tmp_path, "def value(item):\n    return item\nNUMBER = 0\n", "edited.py")
    write(tmp_path, "import edited\ndef through(item):\n    return edited.value(item)\n", "uses.py")
    check(run(tmp_path, RELOADS.replace("{again}", AGAINS[how])), "right\n")


def test_what_is_under_way_when_a_module_is_loaded_anew_ends_as_it_began(tmp_path):
    write(tmp_path, "import time\ndef value(item):\n    time.sleep(0.01)\n    return item\n", "edited.py")
    source = """
        import importlib, time
        import edited
        import manyhands as mh
        from manyhands import _pools

        mh.config.set(scheduler="processes", num_workers=2)
        stream = mh.stream(edited.value, range(100))
        future = mh.submit(time.sleep, 0.5)
        assert next(stream) == 0
        importlib.reload(edited)
        assert mh.map(edited.value, [1]) == [1]
        assert list(stream) == list(range(1, 100))
        assert future.result() is None
        del stream, future
        importlib.reload(edited)
        mh.map(abs, [-1])
        deadline = time.monotonic() + 60
        while any(not pool.is_empty() for pool in _pools._retired):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        print("right")
    """
    check(run(tmp_path, source), "right\n")


def test_the_options_of_the_interpreter_are_passed_on(tmp_path):
    path = write(
        tmp_path,
        """
        import sys
        import manyhands as mh

        def flags(_):
            return (sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode, sys.warnoptions, __debug__)

        (there,) = mh.map(flags, [1], scheduler="processes", num_workers=1)
        assert there == flags(1), (there, flags(1))
        assert there[0] == 1
        print("right")
        """,
    )
    command = [sys.executable, "-O", "-X", "utf8", "-W", "error::UserWarning", str(path)]
    with Program(command) as program:
        check(program.wait(), "right\n")


def test_a_script_with_a_module_s_name_or_a_guard_is_no_problem(tmp_path):
    source = """
        import manyhands as mh

        def main():
            return mh.map(lambda item: item * 2, [1, 2], scheduler="processes", num_workers=2)

        if __name__ == "__main__":
            print(main())
    """
    path = write(tmp_path, source, "statistics.py")
    with Program([sys.executable, str(path)]) as program:
        check(program.wait(), "[2, 4]\n")


def test_the_main_program_is_not_run_again(tmp_path):
    source = """
        import os, sys
        import manyhands as mh
        with open(sys.argv[1], "a") as file:
            file.write("run\\n")
        mh.map(abs, range(10), scheduler="processes", num_workers=3)
    """
    log = tmp_path / "log"
    check(run(tmp_path, source, log))
    assert log.read_text() == "run\n"


# A notebook


def kernel_client():
    import jupyter_client

    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    environment = {**os.environ, "MANYHANDS_NUM_WORKERS": "2", "MANYHANDS_SCHEDULER": "processes"}
    # A kernel that finds itself under test shows less than a user's does.
    environment.pop("PYTEST_CURRENT_TEST", None)
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE_S)
    return manager, client


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A kernel, and a function that runs a cell in it and gives what it shows."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    manager, client = kernel_client()

    class Notebook:
        interrupt = staticmethod(manager.interrupt_kernel)

        @staticmethod
        def begin(cell):
            return client.execute(cell)

        @staticmethod
        def finish(request, until_shown=()):
            """What a cell shows until it is over, or until all of these texts have been shown."""
            shown, error = "", None
            while True:
                message = client.get_iopub_msg(timeout=PATIENCE_S)
                if message["parent_header"].get("msg_id") != request:
                    continue
                content = message["content"]
                if message["msg_type"] == "stream":
                    shown += content["text"]
                elif message["msg_type"] == "execute_result":
                    shown += content["data"]["text/plain"]
                elif message["msg_type"] == "error":
                    error = content["ename"]
                elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                    return shown, error
                if until_shown and all(text in shown for text in until_shown):
                    return shown, error

        def run(self, cell):
            return self.finish(self.begin(cell))

    try:
        yield Notebook()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cells_of_a_notebook(notebook, tmp_path):
    assert notebook.run("import time\nimport manyhands as mh\noffset = 40") == ("", None)
    assert notebook.run("def add(item):\n    return item + offset\nmh.map(add, [1, 2])") == ("[41, 42]", None)
    assert notebook.run("offset = 50\nmh.map(add, [1, 2])") == ("[51, 52]", None)
    assert notebook.run("def add(item):\n    return -item\nmh.compute([mh.delayed(add)(1)])") == ("([-1],)", None)
    assert notebook.run("await mh.submit(add, 3)") == ("-3", None)
    printing = "_ = mh.map(lambda item: print('task', item), range(3))"
    # What tasks print takes its time to the page; in this cell there is all the time it needs.
    gate = tmp_path / "gate"
    waiting = f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)"
    request = notebook.begin(f"import os\n{printing}\nprint('after')\n{waiting}")
    lines = [f"task {item}\n" for item in range(3)]
    shown, error = notebook.finish(request, until_shown=[*lines, "after\n"])
    assert error is None
    assert all(line in shown for line in lines), shown
    gate.touch()
    assert notebook.finish(request)[1] is None
    for _ in range(2):
        request = notebook.begin("print('begun', flush=True)\nmh.map(time.sleep, [600] * 4)")
        notebook.finish(request, until_shown=["begun"])
        notebook.interrupt()
        assert notebook.finish(request)[1] == "KeyboardInterrupt"
        assert notebook.run("mh.map(add, [1, 2])") == ("[-1, -2]", None)


SAYING = """
import logging, os, time, warnings
import manyhands as mh

def say(item):
    print("printed", item)
    warnings.warn(f"warned {item}")
    logging.getLogger("study").warning("logged %d", item)
    return item
"""


def test_what_tasks_say_appears_below_the_cell(notebook, tmp_path):
    assert notebook.run(SAYING) == ("", None)
    numbers = itertools.count(0, 10)
    for scheduler in ("processes", "fork", "threads", "synchronous"):
        for relay in (True, "ordered"):
            first = next(numbers)
            items = range(first, first + 3)
            gate = tmp_path / f"gate {first}"
            # What tasks in workers print takes its time to the page; the cell lasts until it is there.
            call = f"_ = mh.map(say, {items}, scheduler={scheduler!r}, relay={relay!r})\nprint('after')\n"
            request = notebook.begin(f"{call}while not os.path.exists({str(gate)!r}):\n    time.sleep(0.01)")
            texts = [f"{word} {item}\n" for item in items for word in ("printed", "warned", "logged")]
            shown, error = notebook.finish(request, until_shown=[*texts, "after\n"])
            assert error is None
            assert all(shown.count(text) == 1 for text in texts), (scheduler, relay, shown)
            gate.touch()
            assert notebook.finish(request)[1] is None
            if relay == "ordered":
                places = [shown.index(f"printed {item}\n") for item in items]
                assert places == sorted(places), (scheduler, shown)
    assert notebook.run("_ = mh.map(say, range(900, 903), relay=False)\nprint('after')") == ("after\n", None)
