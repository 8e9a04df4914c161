"""A change anywhere in the user's own modules is a change of the functions that use it, however they reach it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

import manyhands as mh
from manyhands._naming import FunctionName, name_arguments

INIT = "import os\n"

#: How a function may reach `g` of a module, which itself uses `k` of another; the program that holds the function.
REACHED = {
    "an attribute of a module of a package": "import study.models\ndef f(x): return study.models.g(x)",
    "one that has another name": "import study.models as m\ndef f(x): return m.g(x)",
    "a package within a package": "import study.deep.models\ndef f(x): return study.deep.models.g(x)",
    "a function of a module": "from study.models import g\ndef f(x): return g(x)",
    "an import within": "def f(x):\n    import study.models\n    return study.models.g(x)",
    "an import within, by another name": "def f(x):\n    import study.models as m\n    return m.g(x)",
    "an import within, from a module": "def f(x):\n    from study.models import g\n    return g(x)",
    "an import within, from a package": "def f(x):\n    from study import models\n    return models.g(x)",
    "an import within a function within": "def f(x):\n    def h():\n        import study.models as m\n"
    "        return m.g(x)\n    return h()",
    "an import within what it calls": "def h(x):\n    import study.models as m\n    return m.g(x)\n"
    "def f(x): return h(x)",
    "an import within a method": "class A:\n    def h(self, x):\n        from study.models import g\n"
    "        return g(x)\ndef f(x): return A().h(x)",
    "a relative import within": "from study.relative import f",
    "a relative import of what is above": "from study.deep.upward import f",
    "an import of what is imported by it": "def f(x):\n    import study.indirect\n    return study.indirect.h(x)",
    "an import in a circle": "def f(x):\n    import study.circle_a\n    return study.circle_a.h(x)",
    "a global, and a circle": "import study.circle_a\ndef f(x): return study.circle_a.h(x)",
    "an import after much else": "def f(x):\n    y = [" + ", ".join(f"x == {n}.5" for n in range(300)) + "]\n"
    "    from study.models import g\n    return g(x)",
    "a module that it encloses": "def make():\n    import study.models as m\n    return lambda x: m.g(x)\nf = make()",
    "a module in a default": "import study.models\ndef f(x, m=study.models): return m.g(x)",
    "a module in a container": "import study.models\nM = [study.models]\ndef f(x): return M[0].g(x)",
    "a package that makes its modules when they are asked for": "import lazy\ndef f(x): return lazy.models.g(x)",
}

FILES = {
    "study/__init__.py": INIT,
    "study/deep/__init__.py": INIT,
    "study/relative.py": "def f(x):\n    from .models import g\n    return g(x)\n",
    "study/deep/upward.py": "def f(x):\n    from .. import models\n    return models.g(x)\n",
    "study/indirect.py": "from . import models\nfrom study.models import g\ndef h(x): return models.g(x)\n",
    "study/circle_a.py": "import study.circle_b\ndef h(x): return study.circle_b.h(x)\n",
    "study/circle_b.py": "import study.circle_a\nimport study.models\n"
    "def h(x): return study.circle_a and study.models.g(x)\n",
    "lazy/__init__.py": "def __getattr__(name):\n    import importlib\n"
    "    return importlib.import_module('.' + name, __name__)\n",
}
MODELS = "from study.numbers import k\ndef g(x): return x + k()\n"
CHANGES = {
    "the module": ("models.py", MODELS.replace("x + k()", "x * 2 + k()")),
    "what it uses": ("numbers.py", "K = 22\ndef k(): return K\n"),
}
ASKING = """
import sys
from manyhands._naming import FunctionName
{}
before = set(sys.modules)
name = FunctionName(f)
new = [one for one in set(sys.modules) - before if one.startswith(("study", "lazy"))]
assert not new, new
print(name.digest.hex(), sorted(name.vague), f(1))
"""


def write_all(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def user_package(folder):
    write_all(folder, FILES)
    for place in ("study", "study/deep", "lazy"):
        write_all(folder, {f"{place}/models.py": MODELS})
    write_all(folder, {"study/numbers.py": "K = 1\ndef k(): return K\n"})


def ask(folder, source):
    """The name of the function `f` of a program that is run in a folder, what it leaves out, and the result."""
    # Without files of compiled code: those of two sources of one second and one length are not told apart.
    command = [sys.executable, "-B", "-c", ASKING.format(source)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", REACHED)
def test_a_change_is_seen_however_it_is_reached(tmp_path, way):
    user_package(tmp_path)
    before = ask(tmp_path, REACHED[way])
    assert "[]" in before
    assert ask(tmp_path, REACHED[way]) == before
    # A comment is none.
    write_all(tmp_path, {"study/deep/models.py": MODELS + "# a comment\n", "study/models.py": MODELS + "# a comment\n"})
    assert ask(tmp_path, REACHED[way]) == before
    for file, changed in CHANGES.values():
        user_package(tmp_path)
        for place in ("study", "study/deep", "lazy"):
            write_all(tmp_path, {f"{place}/{file}": changed})
        after = ask(tmp_path, REACHED[way])
        assert after.split()[-1] != before.split()[-1], "the test itself"
        assert after.split()[0] != before.split()[0]


def test_installed_modules_are_known_by_their_names_also_where_they_are_imported_within(tmp_path):
    source = (
        "def f(x):\n    import sqlite3, wave\n    from xml.etree import ElementTree\n    import no_such\n    return x"
    )
    namespace = {"__name__": "somewhere"}
    exec(source, namespace)
    before = set(sys.modules)
    name = FunctionName(namespace["f"])
    assert set(sys.modules) - before <= {"dis", "opcode", "_opcode", "_opcode_metadata"}
    assert not name.vague
    assert not [label for label, _ in name.parts if "import" in label]


def test_a_module_that_appears_is_a_change(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {"__name__": "somewhere"}
    exec("def f(x):\n    import appears_later\n    return appears_later.g(x)", namespace)
    before = FunctionName(namespace["f"])
    assert not before.vague
    (tmp_path / "appears_later.py").write_text("def g(x): return x\n")
    after = FunctionName(namespace["f"])
    assert after.digest != before.digest
    assert "its import of 'appears_later'" in dict(after.parts)


def test_a_module_as_an_argument_is_known_by_what_is_in_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "an_argument.py").write_text("K = 1\ndef g(x): return x + K\n")
    import an_argument

    try:
        before = name_arguments([an_argument])
        assert name_arguments([an_argument]) == before
        an_argument.K = 2
        assert name_arguments([an_argument]) != before
    finally:
        del sys.modules["an_argument"]


def test_what_has_changed_is_said(tmp_path):
    user_package(tmp_path)
    program = """
        import manyhands as mh
        import study.models
        def f(x):
            return study.models.g(x)
        def h(x):
            from study.deep.models import g
            return g(x)
        print(*[mh.map(one, range(3), checkpoint="a.mh", scheduler="processes", num_workers=1) for one in (f, h)])
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))

    def run():
        command = [sys.executable, "-B", "program.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert run().stdout == "[1, 2, 3] [1, 2, 3]\n"
    again = run()
    assert again.stdout == "[1, 2, 3] [1, 2, 3]\n"
    assert again.stderr.count("all 3 results were there") == 2, again.stderr
    for place in ("study", "study/deep"):
        write_all(tmp_path, {f"{place}/models.py": MODELS.replace("x + k()", "x * 10 + k()")})
    changed = run()
    assert changed.stdout == "[1, 11, 21] [1, 11, 21]\n"
    assert "3 whose function has changed (the global 'study.models.g')" in changed.stderr
    assert "3 whose function has changed (its import of 'study.deep.models')" in changed.stderr


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_module_that_a_task_has_imported_keeps_its_name_until_it_is_changed(tmp_path, monkeypatch, scheduler):
    """A second call of a program finds its results also where the first has found all, and so imports nothing."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "imported_late.py").write_text("K = 1\ndef g(x): return x + K\n")
    namespace = {"__name__": "somewhere"}
    exec("def f(x):\n    import imported_late\n    return imported_late.g(x)", namespace)
    path = tmp_path / "study.mh"
    where = {"checkpoint": path, "scheduler": scheduler, "num_workers": 1}
    try:
        unloaded = FunctionName(namespace["f"]).digest
        assert mh.map(namespace["f"], range(3), **where) == [1, 2, 3]
        assert "imported_late" in sys.modules
        assert FunctionName(namespace["f"]).digest == unloaded
        sys.modules["imported_late"].K = 5
        assert FunctionName(namespace["f"]).digest != unloaded
        assert mh.map(namespace["f"], range(3), **where) == [5, 6, 7]
    finally:
        sys.modules.pop("imported_late", None)
