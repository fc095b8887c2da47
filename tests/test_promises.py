"""What pages promise: the tests that they name are there, and so are the errors."""

import ast
import pathlib
import re

import pytest


_ROOT = pathlib.Path(__file__).parents[1]
_FAULTS = (_ROOT / "tests" / "FAULTS.md").read_text("utf-8")
_RUNS = (_ROOT / "draftx" / "runs" / "README.md").read_text("utf-8")
_NODES = re.findall(r"`([\w/]+\.py)::(\w+)`", _FAULTS)


def test_every_promise_has_a_test():
    rows = [x for x in _FAULTS.splitlines() if x.startswith("| ") and "---" not in x]
    rows = [row for row in rows if not row.startswith("| fault |")]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`[\w/]+\.py::test_\w+`", row)] == []


@pytest.mark.parametrize("name", sorted({file for file, _ in _NODES}))
def test_the_tests_are_there(name):
    tree = ast.parse((_ROOT / "tests" / name).read_text("utf-8"))
    # As pytest collects them.
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {test for file, test in _NODES if file == name} <= there
    assert all(test.startswith("test_") for _, test in _NODES)


def _texts():
    """Every string of the library and of its tests, as one text for each."""
    for path in [*(_ROOT / "draftx").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    p.value if isinstance(p, ast.Constant) else "\0"
                    for p in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_errors_that_are_explained_are_raised():
    section = _RUNS.partition("## What errors mean")[2]
    texts = re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)
    assert len(texts) >= 20
    there = list(_texts())
    assert [x for x in texts if not any(x in text for text in there)] == []
