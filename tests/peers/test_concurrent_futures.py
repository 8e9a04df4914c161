"""CPython's own tests of `concurrent.futures`, run in place from the interpreter's test package on our `Executor`.

Where an interpreter was installed without its tests, there is nothing to run, which the last lines of the run say. What
is left out, and why, is listed in `LEFT_OUT`; where the error is another, in `OTHER_ERRORS`.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import threading
import unittest
import unittest.mock

import pytest

import manyhands as mh

try:
    # CPython's own way to leave out what takes long: here what waits for some seconds is run.
    importlib.import_module("test.support").use_resources = ["walltime"]
    theirs = importlib.import_module("test.test_concurrent_futures")
    # Before 3.12, one module; from then on, a package.
    modules = [theirs] + [
        importlib.import_module(f"{theirs.__name__}.{found.name}")
        for found in pkgutil.iter_modules(getattr(theirs, "__path__", []))
    ]
except (ImportError, unittest.SkipTest) as reason:
    pytest.skip(f"CPython's own tests are not there: {reason}", allow_module_level=True)


INSIDE = "asks for the threads or processes by names of the implementation"
RECYCLED = "max_tasks_per_child is a parameter of theirs"

LEFT_OUT = {
    "threads": {
        "test_default_workers": "the default is the configured number of workers, else that of CPUs",
        "test_saturation": INSIDE,
        "test_idle_thread_reuse": INSIDE,
        "test_hang_global_shutdown_lock": "its executors are CPython's own, whichever are tested",
        "test_threads_terminate": INSIDE,
        "test_context_manager_shutdown": INSIDE,
        "test_del_shutdown": INSIDE,
        "test_shutdown_no_wait": INSIDE,
        "test_thread_names_assigned": INSIDE,
        "test_thread_names_default": INSIDE,
    },
    "processes": {
        "test_saturation": INSIDE,
        "test_idle_process_reuse_one": INSIDE,
        "test_idle_process_reuse_multiple": INSIDE,
        "test_killed_child": "a worker that is killed does not break the executor: its task is run again",
        "test_traceback": "the cause is a manyhands.RemoteTraceback, which shows the same",
        "test_ressources_gced_in_workers": "gives a worker one second, which a busy machine may need for itself",
        "test_max_tasks_per_child": RECYCLED,
        "test_max_tasks_per_child_defaults_to_spawn_context": RECYCLED,
        "test_max_tasks_early_shutdown": RECYCLED,
        "test_python_finalization_error": "patches threads of their implementation, of which there are none here",
        "test_shutdown_deadlock_pickle": INSIDE,
    },
}

# Theirs is broken for good by what an object does as it is unpickled; here its own call fails, of what it was.
OTHER_ERRORS = {
    "test_exit_at_task_unpickle": SystemExit,
    "test_error_at_task_unpickle": Exception,
    "test_error_during_result_unpickle_in_result_handler": Exception,
    "test_exit_during_result_unpickle_in_result_handler": SystemExit,
}


class ThreadPoolExecutor(mh.Executor):
    def __init__(self, max_workers=None, **options):
        super().__init__(max_workers, scheduler="threads", **options)


class ProcessPoolExecutor(mh.Executor):
    def __init__(self, max_workers=None, mp_context=None, **options):
        super().__init__(max_workers, scheduler="processes", **options)


TYPES = {"threads": ThreadPoolExecutor, "processes": ProcessPoolExecutor}

# What programs that tests start are told first.
PROGRAM_BEGINS = """\
import concurrent.futures, manyhands
def ThreadPoolExecutor(max_workers=None):
    return manyhands.Executor(max_workers, scheduler="threads")
def ProcessPoolExecutor(max_workers=None):
    return manyhands.Executor(max_workers, scheduler="processes")
concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
concurrent.futures.ProcessPoolExecutor = ProcessPoolExecutor
"""


def found(name):
    """One of their classes."""
    return next(vars(module)[name] for module in modules if name in vars(module))


class Ours:
    """Comes before their test classes."""

    def setUp(self):
        for module in modules:
            if run := vars(module).get("assert_python_ok"):
                patch = unittest.mock.patch.object(
                    module, "assert_python_ok", lambda c, source, run=run: run(c, PROGRAM_BEGINS + source)
                )
                patch.start()
                self.addCleanup(patch.stop)
        super().setUp()
        if self._testMethodName == "test_cancel_futures":
            # So that some of its calls start. Theirs counts as started what is on its way to workers that do not exist.
            self.executor.submit(int).result()

    def tearDown(self):
        # Threads of the engine that have logged something stand among Python's own, before 3.12 for good; theirs waits
        # for all such to end.
        for thread in list(threading._dangling):
            if isinstance(thread, threading._DummyThread):
                threading._dangling.discard(thread)
        super().tearDown()

    def get_context(self):
        return None

    def _check_crash(self, error, *args, **options):
        super()._check_crash(OTHER_ERRORS.get(self._testMethodName, error), *args, **options)


def class_of(scheduler, *names):
    """Their tests on one of our schedulers."""
    mixins = tuple(found(name) for name in names)
    attributes = {"executor_type": TYPES[scheduler], "__module__": __name__}
    name = f"{scheduler.title()}{names[0]}"
    made = type(name, (Ours, *mixins, found("ExecutorMixin"), found("BaseTestCase")), attributes)
    for test, reason in LEFT_OUT[scheduler].items():
        if hasattr(made, test):
            setattr(made, test, unittest.skip(reason)(lambda self: None))
    return made


ThreadsExecutor = class_of("threads", "ThreadPoolExecutorTest")
ThreadsWait = class_of("threads", "ThreadPoolWaitTests")
ThreadsAsCompleted = class_of("threads", "AsCompletedTests")
ThreadsShutdown = class_of("threads", "ThreadPoolShutdownTest")
ThreadsInitializer = class_of("threads", "InitializerMixin")
ThreadsFailingInitializer = class_of("threads", "FailingInitializerMixin")

ProcessesExecutor = class_of("processes", "ProcessPoolExecutorTest")
ProcessesWait = class_of("processes", "WaitTests")
ProcessesAsCompleted = class_of("processes", "AsCompletedTests")
ProcessesShutdown = class_of("processes", "ExecutorShutdownTest")
ProcessesDeadlock = class_of("processes", "ExecutorDeadlockTest")
ProcessesInitializer = class_of("processes", "InitializerMixin")
ProcessesFailingInitializer = class_of("processes", "FailingInitializerMixin")


def setUpModule():
    # The thread that tells futures of their end stays; their tests look for threads that a test has left.
    mh.submit(abs, -1).add_done_callback(lambda future: None)
    # They collect garbage again and again: not in what other tests have imported.
    gc.collect()
    gc.freeze()


def tearDownModule():
    gc.unfreeze()
