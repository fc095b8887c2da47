"""Reading programs that are compiled for devices that are not there."""

import argparse
import re
import types

import jax
import numpy as np
import pytest

from .helpers import load


compiled_plan = load("compiled_plan")
_plan_show, _targets = load("_plan_show"), load("_targets")
_plan_programs, _plan_record = load("_plan_programs"), load("_plan_record")
H200, V5E = _targets.targets()["h200"], _targets.targets()["v5e"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target h300", "--target must be one of h200, h100, .*; got 'h300'"),
        ("--k 0", "--k must be at least 1; got 0"),
        ("--k 51", "--k must be at most --num-inference-steps, 50; got 51"),
        ("--batch 0", "--batch must be at least 1"),
        ("--images-at-once 0", "--images-at-once must be at least 1"),
        ("--images-at-once 3", "--images-at-once must divide --batch, 4; got 3"),
        ("--topology v5e:2x4", "--topology is of TPUs; got --target h200"),
        ("--flags fast", "--flags must be NAME=VALUE; got 'fast'"),
        ("--remat half", "--remat: invalid choice"),
        ("--model nowhere", "--model: invalid choice: 'nowhere'"),
        (
            "--what sampling --images-at-once 2",
            "--images-at-once is of --what gradient",
        ),
        ("--suite --num-inference-steps 20", "--suite has K = 50: it needs"),
        ("--top -1", "--top must be at least 0; got -1"),
        ("--method draft-lv --k 5", "--k is of --method draft, .*; got 5"),
        ("--rec", "unrecognized arguments: --rec"),
        ("--out .", "--out must be a file; got the folder '.'"),
    ],
)
def test_what_is_impossible_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        compiled_plan.parse_args(options.split())
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("target", ["h200", "v5e"])
def test_a_compiler_that_is_not_installed_is_named(target, monkeypatch, capsys):
    monkeypatch.setattr(_targets.importlib.util, "find_spec", lambda _: None)
    assert compiled_plan.main(["--target", target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"needs the compiler of .*pip install -e '\.\[examples,", line)


def test_too_large_a_program_says_by_how_much():
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.94G of "
        "15.75G hbm. Exceeded hbm capacity by 2.19G."
    )
    translated = _plan_programs._translated(error, V5E)
    assert isinstance(translated, _plan_programs.DoesNotFit)
    assert "needs 17.9 GiB, 1.9 GiB too much" in str(translated)
    error = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'x'")
    translated = _plan_programs._translated(error, V5E)
    assert isinstance(translated, _plan_programs.CannotBeCompiled)
    assert str(translated).startswith("--flags must be XLA's own options")
    other = jax.errors.JaxRuntimeError("INTERNAL: something else")
    assert _plan_programs._translated(other, V5E) is other


def test_a_plan_larger_than_the_device_says_by_how_much():
    sizes = dict.fromkeys(("output", "alias", "generated_code"), 0)
    sizes |= {"argument": 2 * 2**30, "temp": 150 * 2**30}
    memory = types.SimpleNamespace(
        **{f"{name}_size_in_bytes": size for name, size in sizes.items()}
    )
    with pytest.raises(_plan_programs.DoesNotFit, match=r"152\.0 GiB, 11\.0 GiB too"):
        _plan_programs._check_fits(memory, H200)
    memory.temp_size_in_bytes = 130 * 2**30
    _plan_programs._check_fits(memory, H200)


def _row(**changes):
    key = {name: None for name in _plan_record.KEY} | {"target": "h200", "flags": []}
    part = {
        "part": "frozen step",
        "times": 50,
        "ms": 2.0,
        "floor_ms": 1.0,
        "kernels": 3,
        "gib": 1.0,
        "tflop": 1.0,
        "kinds": {"sums": {"kernels": 3, "ms": 2.0, "gib": 1.0, "tflop": 0.0}},
    }
    figures = {
        "compile_s": 10.0,
        "seconds": 0.1,
        "floor_s": 0.05,
        "share": 0.5,
        "launches": 150,
        "collectives": {},
        "opaque": [],
        "memory_mib": {"arguments": 1.0, "temporaries": 2.0, "code": 0.0},
        "parts": [part],
        "what": "sampling",
        "num_inference_steps": 50,
        "batch": 4,
        "dtype": "bfloat16",
        "model": "sd14-shape",
    }
    return key | figures | changes


def test_the_record_keeps_one_plan_of_each_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_plan_record, "RECORD", tmp_path / "plans" / "plans.json")
    _plan_record.keep(_row())
    _plan_record.keep(_row(target="v5e"))
    _plan_record.keep(_row(seconds=0.0800001, largest=[1]))
    assert len(_plan_record.read()) == 2
    kept = _plan_record.find(_row())
    assert kept["seconds"] == 0.08
    assert "largest" not in kept
    assert _plan_record.find(_row(batch=8)) is None
    key = dict(what="sampling", rank=None)
    beside = _plan_record.beside("NVIDIA H200", **key)
    assert beside == {"plan_s": 0.08, "plan_temp_mib": 2.0}
    assert _plan_record.beside("NVIDIA A100-SXM4-80GB", **key) == {}
    _plan_show.compare(kept, _row(seconds=0.06))
    assert re.search(r"seconds +0.08 -> +0.06  -25.0%", capsys.readouterr().out)


@pytest.mark.parametrize("target", ["h200", "v5e"])
def test_the_committed_record_is_of_the_suite(target):
    """All of it for what is watched, and nothing that could not be read."""
    rows = _plan_record.read()
    for case in compiled_plan.SUITE:
        found = [
            row
            for row in rows
            if row["target"] == target
            and all(row[key] == value for key, value in case.items())
            and row["flags"] == []
            and row["images_at_once"] is None
            and row["remat"] in (None, "step")
        ]
        assert len(found) == 1, case
    for row in rows:
        assert row["target"] in _targets.targets()
        assert not row["opaque"]
        assert 0 < row["share"] <= 1


@pytest.mark.parametrize("name", list(_targets.targets()))
def test_targets_say_all_that_estimates_need(name):
    target = _targets.targets()[name]
    assert target.memory_gib > 0
    assert target.bandwidth > 0
    assert set(target.flops) >= {"bf16", "f32"}
    if target.platform == "cuda":
        assert target.launch > 0
        assert target.serial > 0
        text = (_targets._FOLDER / target.description).read_text()
        major, minor = target.compute_capability
        assert f"major: {major}" in text
        assert np.isclose(
            int(re.search(r"device_memory_size: (\d+)", text)[1]) / 2**30,
            target.memory_gib,
            rtol=0.01,
        )
        assert int(re.search(r"memory_bandwidth: (\d+)", text)[1]) > target.bandwidth
    else:
        assert target.clock > 0
        assert target.topology.startswith(name)


def test_options_of_the_suite_are_those_of_the_command():
    args = compiled_plan.parse_args([])
    for case in compiled_plan.SUITE:
        assert set(case) <= set(vars(args))
    assert isinstance(args, argparse.Namespace)
