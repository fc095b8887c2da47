"""Checkpoints of Orbax keep what those of plain files promise."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.io import ModelFileError
from draftx.io.checkpoints import CheckpointStore, OrbaxStore, saved_steps, to_arrays

from .writer import kill_while_writing, state


@pytest.mark.oracle
def test_a_state_comes_back_as_from_plain_files(tmp_path):
    tree = {
        "weights": [jnp.arange(6.0).reshape(2, 3), jnp.ones(3, jnp.bfloat16) / 3],
        "count": jnp.asarray(7, jnp.int32),
        "flags": np.asarray([True, False]),
        "diverged": jnp.asarray([jnp.nan, -jnp.inf]),
        "strides": np.arange(12.0).reshape(3, 4)[::2, ::-1].T,
        "nothing": jnp.zeros((0, 3)),
        "key": jr.key(3),
    }
    arrays = to_arrays(tree)
    notes = {"history": [{"reward": 0.1 + 0.2, "worst": float("inf")}], "text": "é"}
    read = []
    for make in (CheckpointStore, OrbaxStore):
        folder = make(tmp_path / make.__name__).save(12, arrays, notes)
        checkpoint = make(tmp_path / make.__name__).newest()
        assert checkpoint is not None
        assert (checkpoint.step, checkpoint.folder) == (12, folder)
        assert checkpoint.notes == notes
        read.append(checkpoint.arrays)
    assert read[0].keys() == read[1].keys() == arrays.keys()
    for name, array in read[0].items():
        other = read[1][name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape)
        assert array.tobytes() == other.tobytes()


@pytest.mark.oracle
@pytest.mark.parametrize("limits", [(2, 4), (2, None), (None, 3)])
def test_the_newest_are_kept_and_the_permanent(tmp_path, limits):
    kept = []
    for make in (CheckpointStore, OrbaxStore):
        store = make(
            tmp_path / make.__name__, total_limit=limits[0], permanent_every=limits[1]
        )
        assert store.newest() is None
        for step in (1, 2, 4, 5, 6, 8, 9):
            store.save(step, {"x": np.full(2, step)}, {})
        # A training that went back writes again what it had written.
        store.save(8, {"x": np.full(2, -1)}, {})
        kept.append(store.steps())
        np.testing.assert_array_equal(store.read(8).arrays["x"], [-1, -1])
    assert kept[0] == kept[1]


def _flip(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_found_and_the_one_before_taken(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=(40, 10)).astype(np.float32) for n in "ab"}
    store = OrbaxStore(tmp_path)
    for step in (1, 2):
        store.save(step, arrays, {"step": step})
    whole = tmp_path / "whole"
    shutil.copytree(store.path(2), whole)

    def is_found():
        with pytest.warns(UserWarning, match="damaged checkpoint is left out.*step_00"):
            newest = store.newest()
        assert newest is not None
        return newest.step == 1

    def again():
        shutil.rmtree(store.path(2))
        shutil.copytree(whole, store.path(2))

    # The numbers themselves, which Orbax gives without a word however they are.
    files = [path for path in store.path(2).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    for position in rng.integers(500, 2000, size=4):
        _flip(largest, int(position))
        assert is_found()
        again()
    # All else is found, or makes no difference.
    for file in files:
        for harm in (lambda p: _flip(p, p.stat().st_size // 3), pathlib.Path.unlink):
            harm(file)
            try:
                read = store.read(2)
            except ModelFileError:
                assert is_found()
            else:
                assert read.notes == {"step": 2}
                for name, array in arrays.items():
                    np.testing.assert_array_equal(read.arrays[name], array)
            again()
    # One that is damaged does not keep the next from being written.
    (store.path(2) / "_CHECKPOINT_METADATA").write_text("{")
    store.save(3, arrays, {})
    assert store.steps() == [1, 2, 3]


@pytest.mark.oracle
def test_a_checkpoint_of_another_step_is_damaged(tmp_path):
    store = OrbaxStore(tmp_path)
    os.rename(store.save(1, {"x": np.zeros(2)}, {}), store.path(2))
    with pytest.raises(ModelFileError, match="must be as its metadata says"):
        store.read(2)
    with pytest.raises(ModelFileError, match=r"checkpoint of step 3; it has .* \[2\]"):
        store.read(3)


_WRITE = """
import resource, signal, sys
import numpy as np
from draftx.io.checkpoints import OrbaxStore

# As on a full disk, no file can grow beyond this.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = OrbaxStore(sys.argv[1], total_limit=1)
store.save(1, {"x": np.zeros(10)}, {})
try:
    store.save(2, {"x": np.random.default_rng(0).normal(size=100_000)}, {})
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.oracle
def test_a_full_disk_keeps_the_checkpoints_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("OSError\n", 0), done.stderr
    store = OrbaxStore(tmp_path)
    assert store.steps() == [1]
    np.testing.assert_array_equal(store.read(1).arrays["x"], np.zeros(10))
    # What is left of the other goes when the next is written.
    store.save(3, {"x": np.ones(10)}, {})
    assert sorted(os.listdir(tmp_path)) == ["step_00000001", "step_00000003"]


@pytest.mark.oracle
@pytest.mark.parametrize(
    "kills", [2, pytest.param(25, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_kill_at_any_moment_leaves_the_one_before(tmp_path, kills):
    rng, first = np.random.default_rng(0), 1
    for _ in range(kills):
        last = kill_while_writing("orbax", tmp_path, first, rng.uniform(0, 0.4))
        newest = OrbaxStore(tmp_path).newest()  # A warning would be an error.
        assert newest is not None
        assert newest.step in (last, last + 1)
        assert newest.notes == {"step": newest.step}
        for name, array in state(newest.step).items():
            np.testing.assert_array_equal(newest.arrays[name], array)
        first = newest.step + 1


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ValueError, match=r"`store` .*pip install 'draftx\[orbax\]'"):
        draftx.Checkpoints(tmp_path, store="orbax")
    with pytest.raises(ValueError, match=r"pip install 'draftx\[orbax\]'"):
        OrbaxStore(tmp_path)


def test_a_folder_of_the_other_store_is_named(tmp_path):
    (tmp_path / "step_00000003").mkdir()
    (tmp_path / "step_00000004.orbax-checkpoint-tmp").mkdir()
    assert saved_steps(tmp_path) == {"orbax": [3]}
    assert saved_steps(tmp_path / "none") == {}
    with pytest.raises(ValueError, match="`store` must be 'orbax' for .*; got 'safet"):
        draftx.Checkpoints(tmp_path).find({}, 5)


def test_jax_is_used_as_it_was_before():
    """Importing the stores imports no Orbax."""
    code = "import sys, draftx; print('orbax.checkpoint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    assert jax.process_count() == 1
