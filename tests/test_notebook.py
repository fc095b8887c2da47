"""The tutorial: a notebook of names that there are, with the outputs of its code."""

import ast
import base64
import importlib.util
import inspect
import json
import operator
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import draftx


_PATH = pathlib.Path(__file__).parent.parent / "examples" / "tutorial.ipynb"
_MAX_BYTES = 400_000
_KEYS = {"cell_type", "id", "metadata", "source"}
_OF_CODE = {"execution_count", "outputs"}
_NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?"
_END = "=== end of a cell ==="


def _cells(kind):
    cells = json.loads(_PATH.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def _source(cell):
    return "".join(cell["source"])


def _printed(cell):
    return "".join(
        "".join(output["text"])
        for output in cell["outputs"]
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )


def _pictures(cell):
    return [
        base64.b64decode("".join(output["data"]["image/png"]))
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]


def _calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def _does(cell, *names):
    """Whether a cell itself calls one of these, and not a function that it defines."""
    statements = ast.parse(_source(cell)).body
    done = [s for s in statements if not isinstance(s, ast.FunctionDef)]
    called = {ast.unparse(call.func).split(".")[-1] for s in done for call in _calls(s)}
    return bool(called & set(names))


def test_it_is_a_notebook_of_format_4():
    notebook = json.loads(_PATH.read_text("utf-8"))
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        is_code = cell["cell_type"] == "code"
        assert is_code or cell["cell_type"] == "markdown"
        assert cell.keys() == (_KEYS | _OF_CODE if is_code else _KEYS)
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_it_was_run_from_top_to_bottom():
    cells = _cells("code")
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            # Of a result, that of its cell.
            assert output.get("execution_count") in (None, cell["execution_count"])
        assert _does(cell, "print") == bool(_printed(cell))
        assert _does(cell, "show", "subplots") == bool(_pictures(cell))
        assert all(picture[1:4] == b"PNG" for picture in _pictures(cell))


def test_it_is_small_and_says_nothing_of_a_machine():
    assert _PATH.stat().st_size < _MAX_BYTES
    for cell in _cells("code"):
        for output in cell["outputs"]:
            data = {k: v for k, v in output.get("data", {}).items() if "image" not in k}
            text = "".join([*output.get("text", ()), *map("".join, data.values())])
            assert not re.search(r"(^|[\s\"'(=])/\w+/", text), text
            assert not re.search(r"0x[0-9a-f]{6}|[Ww]arning|it/s", text), text


def test_its_names_and_arguments_are_there():
    found = 0
    for cell in _cells("code"):
        for call in _calls(ast.parse(_source(cell))):
            module, *names = ast.unparse(call.func).split(".")
            if module != "draftx":
                continue
            function = operator.attrgetter(".".join(names))(draftx)
            keywords = {keyword.arg: None for keyword in call.keywords}
            inspect.signature(function).bind(*call.args, **keywords)
            found += 1
    assert found > 10


def test_its_links_lead_somewhere():
    text = "\n".join(map(_source, _cells("markdown")))
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for target in links:
        assert target.startswith("https:") or (_PATH.parent / target).is_file(), target


def test_without_diffusers_it_says_what_to_install(monkeypatch, capsys):
    saving, comparing = (c for c in _cells("code") if "has_diffusers" in _source(c))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asks = "".join(_source(saving).partition("has_diffusers = ")[1:])
    names = {"importlib": importlib}
    exec(asks, names)
    assert ".[oracle]" in capsys.readouterr().out
    exec(_source(comparing), names)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.oracle
def test_it_gives_its_outputs(tmp_path):
    for name in ("torch", "diffusers", "peft"):
        pytest.importorskip(name)
    cells = _cells("code")
    code = "\n".join(f"{_source(cell)}\nprint({_END!r}, flush=True)" for cell in cells)
    environment = os.environ | {"MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.split(f"{_END}\n")
    assert printed.pop() == ""
    for cell, text in zip(cells, printed, strict=True):
        expected = _printed(cell)
        assert re.sub(_NUMBER, "#", text) == re.sub(_NUMBER, "#", expected)
        numbers, others = (
            np.asarray(re.findall(_NUMBER, x), float) for x in (text, expected)
        )
        # A signal is heard a step later at times, and rounding adds up over the steps.
        np.testing.assert_allclose(numbers, others, rtol=0.1, atol=0.1)
