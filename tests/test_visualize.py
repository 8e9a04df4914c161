"""Graphs as text, and as pictures where Graphviz is."""

import os
import shutil

import pytest

import manyhands as mh


# total
# |   \
# |    double
# |   /
# one
def triangle():
    one = mh.delayed(abs)(-1, dask_key_name="one")
    double = mh.delayed(pow)(one, 2, dask_key_name="double")
    return mh.delayed(max)(one, double, dask_key_name="total")


LINES = """\
    t0 [label="abs(-1)"]
    t1 [label="pow(<one>, 2)"]
    t2 [label="max(<one>, <double>)"]
    t0 -> t1
    t0 -> t2
    t1 -> t2
}"""


def test_a_graph_as_text():
    assert triangle().visualize().endswith(LINES)
    assert triangle().graph.visualize() == triangle().visualize(optimize_graph=True) == triangle().graph.to_dot()


def test_labels_are_short_and_quoted():
    text = mh.delayed(repr)('say "a\\b"\n' + "x" * 1000).visualize()
    (label,) = [line for line in text.splitlines() if "label" in line]
    assert len(label) < 120
    inner = label.partition('label="')[2].removesuffix('"]')
    assert '"' not in inner.replace("\\\\", "").replace('\\"', "")


@pytest.mark.parametrize("name", ["graph.dot", "graph.gv"])
def test_a_file_of_text(name, tmp_path):
    path = str(tmp_path / name)
    assert triangle().visualize(path) == path
    assert (tmp_path / name).read_text() == triangle().visualize() + "\n"


def test_without_graphviz_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mh.Error, match=r"graph\.svg.*'dot'.*ends in \.dot"):
        triangle().visualize("graph.svg")


def test_graphviz_is_asked_for_the_picture(tmp_path, monkeypatch):
    """A made-up program in its place writes down what it was given."""
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\nif [ "$1" = -Tnone ]; then echo no such format >&2; exit 1; fi\necho "$1"; cat\n')
    program.write_text(program.read_text().replace("; cat", ' > "$3"; cat >> "$3"'))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("dot") == str(program)
    monkeypatch.chdir(tmp_path)
    for arguments, name, given in [
        (("a.svg",), "a.svg", "-Tsvg"),
        (("a",), "a.png", "-Tpng"),
        (("a", "pdf"), "a.pdf", "-Tpdf"),
        (("a.pdf", "pdf"), "a.pdf", "-Tpdf"),
        (("my.graph", "png"), "my.graph.png", "-Tpng"),
    ]:
        assert triangle().visualize(*arguments) == name
        assert (tmp_path / name).read_text() == f"{given}\n{triangle().visualize()}"
    with pytest.raises(mh.Error, match="cannot draw 'a.none' as 'none': no such format"):
        triangle().visualize("a.none")
