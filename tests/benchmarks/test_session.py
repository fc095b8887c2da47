"""The driver of `gpu_session.py`: order, time limits, going on, and the summary."""

import json
import os
import pathlib
import sys
import time

import pytest

from .helpers import load


_session, gpu_session = load("_session"), load("gpu_session")
_summary = load("_summary")
Stage, Progress = _session.Stage, _session.Progress


def _stages(*names, **options):
    return tuple(Stage(name, "module:function", **options) for name in names)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a stage whose process is a piece of Python; gives what is then known."""
    progress = Progress(tmp_path / "out" / "progress.json")

    def run(code, *, left=60.0, **options):
        (stage,) = _stages("stage", needs=1, **options)
        command = [sys.executable, "-c", f"import sys, time\n{code}", str(tmp_path)]
        monkeypatch.setattr(_session, "_command", lambda *_: command)
        _session.run_stage(stage, progress, small=True, work=tmp_path, left=left)
        assert Progress(progress.path).stages == progress.stages
        return progress.stages["stage"]

    return run


_SAVE = "open(sys.argv[1] + '/result.json', 'w').write('{\"figure\": 7}')\n"


def test_a_stage_leaves_its_result(run):
    entry = run(_SAVE)
    assert entry["status"] == "done"
    assert entry["result"] == {"figure": 7}
    # A result of an earlier stage is not taken for one's own.
    assert "result" not in run("pass")


def test_a_stage_that_fails_keeps_what_it_had(run):
    entry = run(_SAVE + "raise ValueError('what went wrong')")
    assert entry["status"] == "failed"
    assert entry["result"] == {"figure": 7}
    assert entry["last_lines"][-1] == "ValueError: what went wrong"


def test_a_stage_out_of_time_is_ended_with_all_it_started(run, tmp_path):
    child = "import subprocess\np = subprocess.Popen([sys.executable, '-c', "
    child += "'import time; time.sleep(60)'])\n"
    child += "open(sys.argv[1] + '/pid', 'w').write(str(p.pid))\n"
    start = time.monotonic()
    entry = run(_SAVE + child + "time.sleep(60)", seconds=2.0)
    assert time.monotonic() - start < 20
    assert entry["status"] == "out of time"
    assert entry["result"] == {"figure": 7}
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        # Nobody may be there to collect it: then it stays, but as a zombie.
        try:
            text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            break
        if text.rpartition(")")[2].split()[0] in "ZX":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("The stage's own child still runs.")


def test_a_stage_is_not_begun_too_late(run):
    entry = run("raise SystemExit(1)", left=5.2)
    assert entry["status"] == "skipped"
    assert "5 s were left, and it needs 0" in entry["note"]


def test_a_missing_package_is_no_failure(run):
    text = json.dumps({"unavailable": "No module named 'torch'"})
    entry = run(f"open(sys.argv[1] + '/result.json', 'w').write({text!r})")
    assert entry["status"] == "unavailable"


def test_what_is_left_to_do(tmp_path):
    progress = Progress(tmp_path / "progress.json")
    stages = _stages("a", "b", "c", "d", "e", "f")
    statuses = ("done", "failed", "skipped", "unavailable", "running")
    for stage, status in zip(stages, statuses, strict=False):
        progress.set(stage.name, status=status)
    # What did not end well comes after all that was never tried.
    assert [s.name for s in progress.to_do(stages)] == ["c", "f", "b", "e"]


def test_stages_are_told_apart_and_exist():
    names = [stage.name for stage in _session.STAGES]
    assert len(set(names)) == len(names)
    first = [names.index(word) for word in ("environment", "kernels", "attention")]
    assert first == [0, 1, 2]
    # What the figures are compared with comes right after them.
    for case, beside in (("draft-1", "draft-1"), ("draft-50", "draft")):
        at = names.index(f"headline {case}-step")
        assert names[at + 1] == f"PyTorch {beside}"
    for stage in _session.STAGES:
        module, _, function = stage.function.partition(":")
        path = _session.ROOT / "benchmarks" / f"{module}.py"
        assert f"\ndef {function}(" in path.read_text(), stage.name
        assert stage.needs <= stage.seconds
        if stage.name.startswith("kernel "):
            script = stage.options["name"] + ".py"
            assert (_session.ROOT / "benchmarks" / "kernels" / script).exists()


def test_flags_reach_the_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--given")
    (stage,) = _stages("stage", xla_flags="--more")
    assert _session._environment(stage, False)["XLA_FLAGS"] == "--given --more"
    small = _session._environment(stage, True)
    assert small["JAX_PLATFORMS"] == "cpu"
    assert "--more" not in small["XLA_FLAGS"]  # Perhaps not a flag of this machine.
    assert os.environ["XLA_FLAGS"] == "--given"


def test_a_second_call_goes_on(tmp_path, monkeypatch, capsys):
    ran = []
    fails = {"b"}

    def run_stage(stage, progress, **_):
        ran.append(stage.name)
        status = "failed" if stage.name in fails else "done"
        progress.set(stage.name, status=status, seconds=1.0, result={})

    monkeypatch.setattr(gpu_session, "STAGES", _stages("a", "b", "c"))
    monkeypatch.setattr(gpu_session, "run_stage", run_stage)
    call = ["--small", "--out", str(tmp_path / "out")]
    gpu_session.main(call)
    assert "Not done: b. The same command" in capsys.readouterr().out
    fails.clear()
    gpu_session.main(call)
    assert ran == ["a", "b", "c", "b"]
    assert not (tmp_path / "out" / "progress.json").exists()
    assert len(list((tmp_path / "out").glob("*.json"))) == 1
    gpu_session.main(call)  # All was done: a new visit.
    assert ran[4:] == ["a", "b", "c"]
    gpu_session.main([*call, "--only", "c"])
    assert ran[7:] == ["c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", __file__], "--out must be a folder; got the file"),
        (["--work", __file__], "--work must be a folder; got the file"),
        (["--minutes", "0"], "--minutes must be positive; got 0.0"),
        (["--only", "nothing"], "--only must begin one of environment, kernels"),
    ],
)
def test_what_is_impossible_is_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        gpu_session.main(options)
    assert message in capsys.readouterr().err


def test_the_summary_says_what_matters(tmp_path):
    progress = Progress(tmp_path / "progress.json")
    results = {
        "environment": {"device": "NVIDIA H200", "jax": "0.11.2"},
        "tests": {"tests": 9, "passed": False, "not_passed": ["test_jpeg"]},
        "headline sampling": {
            "case": "sampling",
            "seconds": 0.9,
            "bar_s": 0.8,
            "mfu_790": 0.412,
            "passed": False,
        },
        "kernel geglu": {"rows": [{"case": "4096 x 2560", "forward_ms": 0.123}]},
        "memory, low": {"rows": [{"k": 50, "remat": "step", "peak_mib": 1.0}]},
        "PyTorch sample": {
            "ratios": {"sample": {"best": 1.4}},
            "agreement": [{"case": "sample", "passed": True}],
        },
        "time by kind: unet": {
            "forward": {"kinds_ms": {"convolution": 5.0}, "wall_ms": 15.0}
        },
        "flags none": {"flag": "", "forward_s": 1.0},
    }
    for name, result in results.items():
        progress.set(name, status="done", result=result)
    progress.set("headline draft-1-none", status="skipped", note="9 s were left")
    json_path, md_path = _summary.write_summary(tmp_path, progress, small=False)
    assert json_path.name == f"nvidia-h200-{progress.began}.json"
    text = md_path.read_text()
    for line in (
        "| tests | NO | tests 9, not_passed ['test_jpeg'] |",
        "| sampling | 0.9 | 0.8 | 41.2% | NO |",
        "| 4096 x 2560 | 0.123 |",
        "| 50 | step | 1 |",
        "| sample | yes | 1.4 |",
        "| forward | convolution | 5 | 4.06 |",
        "| none | 1 |",
        "- headline draft-1-none: skipped, 9 s were left",
    ):
        assert line in text
    assert json.loads(json_path.read_text())["stages"] == progress.stages
