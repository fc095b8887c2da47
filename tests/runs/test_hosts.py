"""The same command on several hosts: one training, one folder, and one end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from draftx.io.formats import TensorFile
from draftx.runs import main, open_run

from ..finetuning.test_mesh import flat, toy, toy_gradient
from ..hosts import start_hosts


# Each is so short that a kill must find many.
_STEPS = 40


def _ended(processes, timeout=300):
    """Codes, and what was printed; those that still run are a failure."""
    # All at once: a full pipe would hold one, for which the others wait at their end.
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(lambda p: p.communicate(timeout=timeout), processes))
    return [
        (process.returncode, *end) for process, end in zip(processes, ends, strict=True)
    ]


def _found(work):
    ends = _ended(start_hosts(*2 * [["-m", "tests.hosts", work]]))
    assert [code for code, _, _ in ends] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for _, out, _ in ends]


def test_what_one_finds_all_know():
    first, second = _found("agreements")
    for found in (first, second):
        assert found["first"] == {"π": [0, None, 0.1]}
        assert found["numbers"] == [5, 6]
        assert found["alike"] is None
        assert found["then"] == [1]
    assert [first["values"], second["values"]] == [0, 1]
    own = "ValueError: a file of mine is missing"
    assert first["error of the first"] == second["error of one"] == own
    told = "HostError: the first process has met an error: " + own
    assert second["error of the first"] == told
    assert "HostError: process 1 has met an error" in first["error of one"]
    assert "process 1 has met" in first["not alike"]
    expected = "process 1 has ['b1'], the first has ['b0']. Start the same command"
    assert expected in second["not alike"]


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "must be known to JAX by a scheduler"),
        ({"JAX_PROCESS_ID": "0"}, "must be known to JAX by a scheduler"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES, 2; got 2",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "there"}, "must be a host and a port"),
    ],
)
def test_hosts_that_are_not_known_are_an_error(variables, text, monkeypatch, capsys):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--distributed"]) == 1
    assert text in capsys.readouterr().err


def test_a_mesh_that_does_not_fit_is_an_error(tmp_path, capsys):
    out = ["train", "--output-dir", str(tmp_path / "run")]
    assert main([*out, "--mesh", "rows=2"]) == 1
    assert "`mesh` must be sizes of the axes 'data' and 'model'" in _last(capsys)
    assert main([*out, "--mesh", "data=2"]) == 1
    assert "`mesh` must have as many devices as there are, 1" in _last(capsys)
    assert not (tmp_path / "run").exists()


def _last(capsys):
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("index", [0, 1])
def test_a_host_that_does_not_answer_is_an_error(index):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    where = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    where |= {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    start = time.monotonic()
    code = "from draftx._hosts import join_hosts; join_hosts(3)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | where,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert f"as process {index} of 2, at localhost:{port}" in done.stderr
    assert "All processes must come within 3 s" in done.stderr
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_the_gradient_of_two_hosts_is_that_of_one():
    expected = flat(toy_gradient(toy(), "step"))
    for found in _found("gradient"):
        error = np.linalg.norm(np.asarray(found["gradient"]) - expected)
        assert error <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
def test_the_command_on_a_mesh_gives_the_same_adapter(model, tmp_path):
    """On a CPU it makes the devices, and goes on only on the same ones."""
    flags = ["--preset", "tiny", "--prompts", "a {animals}", "--model", str(model)]
    flags += ["--sampling.num-inference-steps", "2", "--sampling.guidance-scale", "1"]
    flags += ["--num-validation-images", "2", "--evaluation.batch-size", "2"]
    flags += ["--train-batch-size", "2", "--max-train-steps", "3"]
    meshes = ([], ["--mesh", "model=2"], ["--mesh", "data=2"])
    names = ("none", "model", "model")
    codes, errors = [], []
    for mesh, name in zip(meshes, names, strict=True):
        command = ["-m", "draftx", "train", *flags, *mesh]
        command += ["--output-dir", str(tmp_path / name)]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=300
        )
        codes.append(done.returncode)
        errors.append(done.stderr)
    assert codes == [0, 0, 1], errors
    assert "mesh" in errors[2].splitlines()[-3]
    one, other = (
        TensorFile(tmp_path / name / "lora.safetensors") for name in names[:2]
    )
    for name in one.shapes:
        expected, actual = one.read_exactly(name), other.read_exactly(name)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def train(model, tmp_path_factory):
    """Starts the same command on two hosts, each as a device of its own."""
    flags = ["--preset", "tiny", "--prompts", "a {animals}", "--lora-scales", "0", "1"]
    flags += ["--sampling.num-inference-steps", "2", "--sampling.guidance-scale", "1"]
    flags += ["--num-validation-images", "2", "--evaluation.batch-size", "2"]
    flags += ["--train-batch-size", "2", "--checkpointing-steps", "1"]
    flags += ["--method.name", "draft", "--method.truncation-steps", "1"]
    flags += ["--max-train-steps", str(_STEPS), "--evaluation.every", str(_STEPS)]
    flags += ["--model", str(model), "--distributed", "--host-timeout", "60"]
    cache = tmp_path_factory.mktemp("cache")

    def start(folder, of_second=()):
        command = ["-m", "draftx", "train", *flags, "--output-dir", str(folder)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))
            return start_hosts(command, [*command, *of_second])

    return start


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """A run of two hosts that nobody disturbs."""
    folder = tmp_path_factory.mktemp("hosts") / "run"
    (code, out, _), (other, other_out, other_err) = _ended(train(folder))
    assert (code, other) == (0, 0)
    # What both would say is said once.
    assert f"everything is in {folder}" in out
    assert folder.name not in other_out
    assert "fine-tuning" not in other_err
    run = open_run(folder)
    assert len(run.history) == _STEPS
    assert run.scales is not None
    assert run.folder.samples(_STEPS).is_file()
    return run


def _wait_for_checkpoint(folder):
    end = time.monotonic() + 300
    while not (folder / "checkpoints" / "step-00000001").is_dir():
        assert time.monotonic() < end, "no checkpoint was written"
        time.sleep(0.005)


def _untimed(history):
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "number", "codes"),
    [
        (1, signal.SIGKILL, (1, -signal.SIGKILL)),
        (0, signal.SIGKILL, (-signal.SIGKILL, 1)),
        (1, signal.SIGTERM, (143, 143)),
    ],
)
def test_one_that_ends_ends_all_and_a_restart_goes_on(
    train, whole, tmp_path, index, number, codes
):
    folder = tmp_path / "run"
    processes = train(folder)
    _wait_for_checkpoint(folder)
    processes[index].send_signal(number)
    start = time.monotonic()
    ends = _ended(processes)
    assert time.monotonic() - start < 90
    for (code, _, err), expected in zip(ends, codes, strict=True):
        # JAX may end a process whose first has died before Python hears of it.
        assert code in (expected, -signal.SIGABRT if expected == 1 else expected), err
        if code == 1:
            assert "another process of this training has ended" in err
    assert open_run(folder).checkpoints[-1] < _STEPS
    ends = _ended(train(folder))
    assert [code for code, _, _ in ends] == [0, 0], ends
    resumed = open_run(folder)
    assert _untimed(resumed.history) == _untimed(whole.history)
    assert resumed.evaluations == whole.evaluations
    one, other = (TensorFile(run.folder.lora) for run in (whole, resumed))
    for name in one.shapes:
        np.testing.assert_array_equal(one.read_exactly(name), other.read_exactly(name))


@pytest.mark.slow
def test_hosts_that_were_told_otherwise_are_an_error(train, tmp_path):
    ends = _ended(train(tmp_path / "run", ["--seed", "1"]))
    assert [code for code, _, _ in ends] == [1, 1]
    assert "process 1 has met an error" in ends[0][2]
    assert "process 1 has ['seed = 1'], the first has ['seed = 0']" in ends[1][2]
    assert not (tmp_path / "run").exists()
