"""Trackers: what each is told, and that none can stop a training."""

import importlib
import sys
import time
import types

import numpy as np
import PIL.Image
import pytest

from draftx.runs import main, read_config
from draftx.runs.folder._folder import RunFolder
from draftx.runs.training._trackers import check_trackers, Tracker, TRACKERS


# What `draftx.finetune` gives after each of three steps.
_ROWS = [
    {
        "step": step,
        "reward": -float(step),
        "reward_std": float("nan"),
        "skipped": 0,
        "prompts": [1, 2],
    }
    for step in range(3)
]
_ROWS[0] |= {"before/score": -4.0}
_ROWS[2] |= {"held_out/score": -1.0}
_FIGURES = [
    (0, {"held_out/score": -4.0}),
    (1, {"reward": 0.0, "skipped": 0}),
    (2, {"reward": -1.0, "skipped": 0}),
    (3, {"reward": -2.0, "skipped": 0, "held_out/score": -1.0}),
]


@pytest.fixture
def folder(tmp_path):
    """That of a run, with what was drawn before and after three steps."""
    folder = RunFolder(tmp_path / "run")
    (folder.path / "samples").mkdir(parents=True)
    for step in (0, 3):
        pixels = np.full((4, 6, 3), 10 * step, np.uint8)
        PIL.Image.fromarray(pixels).save(folder.samples(step))
    return folder


class Told:
    """A stand-in for each of the modules: keeps what it is told, and fails at will."""

    def __init__(self, fails_at=()):
        self.calls = []
        self.fails_at = fails_at

    def _hear(self, name, *args):
        if name in self.fails_at:
            raise OSError("no network\nand more")
        self.calls.append((name, *args))

    def module(self, name):
        module = types.ModuleType(name)
        if name == "tensorboardX":
            module.SummaryWriter = self._writer  # pyright: ignore
            return module
        module.init = self._init  # pyright: ignore
        module.Settings = dict  # pyright: ignore
        module.setup = lambda settings: setattr(self, "settings", settings)  # pyright: ignore
        module.Image = lambda path: ("image", path)  # pyright: ignore
        return module

    def _writer(self, logdir, purge_step):
        self._hear("start", logdir, purge_step)
        return types.SimpleNamespace(
            add_scalar=lambda name, x, step: self._hear("log", {name: x}, step),
            add_image=lambda name, x, step, dataformats: self._hear(
                "picture", int(x[0, 0, 0]), step
            ),
            close=lambda: self._hear("finish"),
        )

    def _init(self, **options):
        self._hear("start", options)
        return types.SimpleNamespace(log=self._log, finish=lambda: self._hear("finish"))

    def _log(self, values, step):
        if "samples" in values:
            self._hear("picture", values["samples"], step)
        else:
            self._hear("log", values, step)

    def figures(self):
        """Those of each step, in the order that they came in."""
        found = {}
        for name, *args in self.calls:
            if name == "log":
                found.setdefault(args[1], {}).update(args[0])
        return list(found.items())


_MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


@pytest.fixture
def told(monkeypatch):
    def install(name, *fails_at):
        told = Told(fails_at)
        module = _MODULES[name]
        monkeypatch.setitem(sys.modules, module, told.module(module))
        return told

    return install


def _report(tracker, rows, resumed=()):
    tracker.begin(5)
    if resumed:
        tracker.resume(list(resumed))
    for row in rows:
        tracker(row, None)
    tracker.end()


@pytest.mark.parametrize("name", TRACKERS)
def test_each_is_told_figures_and_pictures(name, folder, told):
    heard = told(name)
    tracker = Tracker(name, folder, {"seed": 3})
    assert not tracker.needs_pipeline()
    _report(tracker, _ROWS)
    assert heard.figures() == _FIGURES
    assert [call[0] for call in heard.calls].count("start") == 1
    assert heard.calls[-1] == ("finish",)
    pictures = {c[2]: c[1] for c in heard.calls if c[0] == "picture"}
    if name == "tensorboard":
        assert heard.calls[0][1:] == (str(folder.path / "tensorboard"), None)
        assert pictures == {0: 0, 3: 30}
    else:
        assert pictures == {s: ("image", str(folder.samples(s))) for s in (0, 3)}
        options = heard.calls[0][1]
        assert options["config"] == {"seed": 3}
        assert options["project"] == "draftx"
    if name == "wandb":
        # At a terminal it would wait for an answer for ever.
        assert heard.settings == {"login_timeout": 60}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_goes_on_is_the_same_run(name, folder, told):
    first = told(name)
    _report(Tracker(name, folder, {}), _ROWS[:2])
    second = told(name)
    _report(Tracker(name, folder, {}), _ROWS[2:], _ROWS[:2])
    assert second.figures() == _FIGURES[3:]
    start, again = first.calls[0][1:], second.calls[0][1:]
    if name == "tensorboard":
        # What an earlier process wrote of later steps is void.
        assert again == (start[0], 3)
        return
    assert again == start
    assert start[0]["resume"] == "allow"
    other = told(name)
    elsewhere = RunFolder(folder.path.parent / "other" / folder.path.name)
    elsewhere.path.mkdir(parents=True)
    _report(Tracker(name, elsewhere, {}), _ROWS[:1])
    key = {"wandb": "id", "trackio": "name"}[name]
    assert other.calls[0][1][key] != start[0][key]
    # Nothing is left to do: nothing is reported.
    nothing = told(name)
    _report(Tracker(name, folder, {}), [], _ROWS)
    assert nothing.calls == []


@pytest.mark.parametrize("fails_at", ["start", "log", "picture", "finish"])
@pytest.mark.parametrize("name", TRACKERS)
def test_what_fails_is_said_once_and_stops_nothing(name, fails_at, folder, told):
    heard = told(name, fails_at)
    with pytest.warns(UserWarning, match="`report_to`") as warned:
        _report(Tracker(name, folder, {}), _ROWS)
    (warning,) = warned
    text = str(warning.message)
    assert f"`report_to`: '{name}' failed (OSError: no network)" in text
    assert "the run goes on" in text
    if fails_at != "finish":
        after = [call for call in heard.calls if call[0] == "log" and call[-1] > 1]
        assert after == []


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_said_before_the_first_step(name, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, _MODULES[name], None)
    tracker = Tracker(name, folder, {})
    with pytest.warns(UserWarning, match=rf"pip install 'draftx\[{name}\]'"):
        tracker.begin(3)
    for row in _ROWS:
        tracker(row, None)
    tracker.end()


def test_a_broken_import_is_no_error_either(folder, monkeypatch):
    def broken(name):
        raise RuntimeError("protobuf is too old")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.warns(UserWarning, match="RuntimeError: protobuf is too old"):
        _report(Tracker("wandb", folder, {}), _ROWS)


def test_the_end_does_not_wait_for_ever(folder, told):
    heard = told("wandb")
    tracker = Tracker("wandb", folder, {}, patience=0.05)
    tracker.begin(3)
    tracker(_ROWS[0], None)
    hang, heard._hear = heard._hear, lambda *args: time.sleep(5)
    start = time.monotonic()
    with pytest.warns(UserWarning, match=r"TimeoutError: not done within 0.05 s"):
        tracker.end()
    assert time.monotonic() - start < 4
    heard._hear = hang


def test_an_unknown_name_is_an_error_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(None, ["--report_to", "wandb", "tensorboard"])
    assert config.report_to == ("wandb", "tensorboard")
    check_trackers(config.report_to)
    assert main(["train", "--report-to", "wandb", "mlflow"]) == 1
    error = capsys.readouterr().err
    assert "must be of tensorboard, wandb, trackio" in error
    assert "'mlflow'" in error
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_is_written(folder):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    _report(Tracker("tensorboard", folder, {}), _ROWS)
    (file,) = (folder.path / "tensorboard").iterdir()
    data, values, pictures = file.read_bytes(), {}, []
    while data:
        # A record: its length, a checksum of that, the event, a checksum of it.
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        data = data[12 + length + 4 :]
        for value in event.summary.value:
            if value.HasField("image"):
                pictures.append((event.step, value.image.height, value.image.width))
            else:
                values.setdefault(event.step, {})[value.tag] = value.simple_value
    assert list(values.items()) == _FIGURES
    assert pictures == [(0, 4, 6), (3, 4, 6)]
