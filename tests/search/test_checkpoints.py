"""A search that is interrupted and called again finds what it would have found."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import search
from draftx.io.checkpoints import CheckpointStore, describe

from ..toys import toy_reward
from .searcher import CALLS, dies_at, fields, SAMPLING, Stop


_PROMPTS = ["cat", "do"]


def _hears_at(step, number):
    """A store whose process is sent a signal when a step's checkpoint is written."""

    def make(folder, **limits):
        store = CheckpointStore(folder, **limits)
        save = store.save

        def hearing(done, arrays, notes):
            save(done, arrays, notes)
            if done == step:
                os.kill(os.getpid(), number)
                time.sleep(0.3)  # It is heard by another thread.

        store.save = hearing
        return store

    return make


@pytest.fixture(params=CALLS)
def find(request, short_pipeline):
    call, options = CALLS[request.param]

    def find(folder=None, store="safetensors"):
        checkpoints = None
        if folder is not None:
            checkpoints = draftx.Checkpoints(folder, every=1, store=store)
        return call(
            short_pipeline,
            toy_reward,
            _PROMPTS,
            key=jr.key(5),
            checkpoints=checkpoints,
            progress=False,
            **options,
        )

    return find


def _assert_same(one, other):
    assert one.stopped == other.stopped
    for name, array in fields(one).items():
        np.testing.assert_array_equal(array, fields(other)[name], err_msg=name)


def test_it_finds_the_same_bits_however_it_is_interrupted(find, tmp_path, capfd):
    whole = find()
    with pytest.raises(Stop):
        find(tmp_path, store=dies_at(2))
    assert CheckpointStore(tmp_path).steps() == [1]
    # A signal that comes when the second step is done ends the search with the third.
    ended = find(tmp_path, store=_hears_at(2, signal.SIGTERM))
    assert "SIGTERM: the step is finished and saved" in capfd.readouterr().err
    assert ended.stopped == "SIGTERM"
    assert CheckpointStore(tmp_path).steps() == [1, 2, 3]
    np.testing.assert_array_equal(ended.history[:3], whole.history[:3])
    assert np.all(np.isfinite(ended.images))
    assert ended.images.shape == whole.images.shape
    _assert_same(find(tmp_path), whole)
    # What is done is not done again, but for the last images of some.
    _assert_same(find(tmp_path, store=dies_at(4)), whole)


def test_changes_and_what_is_not_of_the_search_are_named(short_pipeline, tmp_path):
    def find(folder, key=5, prompts=("cat",), call=search.best_of_n, **kwargs):
        return call(
            short_pipeline,
            toy_reward,
            list(prompts),
            SAMPLING,
            key=jr.key(key),
            checkpoints=draftx.Checkpoints(tmp_path / folder, **kwargs),
            progress=False,
            **({"n": 1} if call is search.best_of_n else {}),
        )

    find("search")
    # The seconds are those of all parts.
    seconds = CheckpointStore(tmp_path / "search").read(1).notes["seconds"]
    assert find("search").budget.seconds > seconds > 0
    with pytest.raises(ValueError, match=r"changed since:\n  key: was .*, is .*\n"):
        find("search", key=6)
    with pytest.raises(ValueError, match=r"\n  prompts: was 1 rows, .*, is 2 rows, "):
        find("search", prompts=_PROMPTS)
    with pytest.raises(ValueError, match="one search by doodl; .* of a search by best"):
        find("search", call=search.doodl)
    facts = describe("training", short_pipeline, draftx.Table.of(["a"]), jr.key(0), {})
    with pytest.raises(ValueError, match="one training; .* of a search by best_of"):
        draftx.Checkpoints(tmp_path / "search").find(facts, 5)
    store = CheckpointStore(tmp_path / "training")
    store.save(1, {"x": np.zeros(1)}, {"facts": facts})
    for allowed in (False, True):
        with pytest.raises(ValueError, match="one search by .*; .* of a training. Cho"):
            find("training", allow_changes=allowed)


def test_more_steps_go_on_and_fewer_are_named(short_pipeline, tmp_path):
    def find(n, checkpoints=None):
        return search.best_of_n(
            short_pipeline,
            toy_reward,
            _PROMPTS,
            SAMPLING,
            n=n,
            checkpoints=checkpoints,
            progress=False,
        )

    checkpoints = draftx.Checkpoints(tmp_path)
    find(2, checkpoints)
    _assert_same(find(4, checkpoints), find(4))
    with pytest.raises(ValueError, match="`n` must be at least 4, the steps that"):
        find(3, checkpoints)


def test_progress_is_shown_unless_it_is_not_wanted(short_pipeline, capfd):
    for progress in (True, False):
        search.best_of_n(
            short_pipeline, toy_reward, _PROMPTS, SAMPLING, n=2, progress=progress
        )
        assert ("best_of_n: 100%" in capfd.readouterr().err) == progress


@pytest.mark.parametrize(
    "call", [call for call, _ in CALLS.values()], ids=lambda call: call.__name__
)
def test_checkpoints_are_checked_before_any_work(call, without_types):
    with pytest.raises(ValueError, match="`checkpoints` must be a Checkpoints"):
        call(None, toy_reward, ["cat"], SAMPLING, checkpoints="run")


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_killed_process_goes_on_as_if_nothing_was(name, tmp_path):
    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.search.searcher", name, str(folder)],
            cwd=pathlib.Path(__file__).parents[2],
        )

    def found(folder):
        with np.load(folder / "found.npz") as file:
            return dict(file)

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    with start(tmp_path / "whole") as process:
        assert process.wait() == 0
    parts = tmp_path / "parts"
    for step in (1, 2):
        with start(parts) as process:
            end = time.monotonic() + 300
            while not (parts / f"checkpoints/step-{step:08d}").is_dir():
                assert time.monotonic() < end
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (parts / "found.npz").exists()
    with start(parts) as process:
        assert process.wait() == 0
    whole = found(tmp_path / "whole")
    for field, array in found(parts).items():
        np.testing.assert_array_equal(array, whole[field], err_msg=field)
