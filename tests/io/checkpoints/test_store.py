"""Checkpoints: whole or not there, whatever happens while they are written."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.io import ModelFileError
from draftx.io.checkpoints import CheckpointStore, from_arrays, to_arrays

from .writer import kill_while_writing, state


def _tree():
    return {
        "weights": [jnp.arange(6.0).reshape(2, 3), jnp.ones(3, jnp.bfloat16) / 3],
        "count": jnp.asarray(7, jnp.int32),
        "flags": jnp.asarray([True, False]),
        "diverged": jnp.asarray([jnp.nan, -jnp.inf]),
        "key": jr.key(3),
        "raw": jr.PRNGKey(4),
        "none": None,
    }


def test_a_state_comes_back_bit_for_bit(tmp_path):
    tree = _tree()
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.newest() is None
    notes = {"history": [{"reward": 0.1 + 0.2, "worst": float("inf")}], "text": "é"}
    folder = store.save(12, to_arrays(tree), notes)
    assert folder.name == "step-00000012"
    read = CheckpointStore(tmp_path / "checkpoints").newest()
    assert read is not None
    assert (read.step, read.folder, read.notes) == (12, folder, notes)
    like = jax.tree.map(lambda x: x, tree)
    restored = from_arrays(like, read.arrays, str(folder))
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for before, after in zip(*map(jax.tree.leaves, (tree, restored)), strict=True):
        assert before.dtype == after.dtype
    for name, array in to_arrays(tree).items():
        assert array.tobytes() == to_arrays(restored)[name].tobytes()
    # A typed key goes on where it was.
    assert jr.bits(restored["key"]) == jr.bits(tree["key"])


def test_arrays_come_back_to_their_devices_or_stay_free():
    device = jax.devices()[0]
    tree = {"put": jax.device_put(jnp.ones(2), device), "free": jnp.ones(2)}
    restored = from_arrays(tree, to_arrays(tree), "it")
    assert restored["put"].committed
    assert restored["put"].devices() == {device}
    # It may be joined with arrays of any devices, as before.
    assert not restored["free"].committed


def test_arrays_with_strides_are_written_as_they_look(tmp_path):
    store = CheckpointStore(tmp_path)
    array = np.arange(12.0).reshape(3, 4)
    store.save(1, {"t": array.T, "s": array[::2, ::-1]}, {})
    read = store.read(1).arrays
    np.testing.assert_array_equal(read["t"], array.T)
    np.testing.assert_array_equal(read["s"], array[::2, ::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(count=None), r"1 unexpected: \['count'\]"),
        (dict(more=jnp.zeros(2)), r"1 missing: \['more'\]"),
        (
            dict(count=jnp.zeros(2, jnp.int32)),
            r"\['count'\]: int32\[\], not int32\[2\]",
        ),
        (dict(flags=jnp.zeros(2)), r"bool\[2\], not float32\[2\]"),
    ],
)
def test_a_state_of_other_options_is_named(change, message):
    arrays = to_arrays(_tree())
    with pytest.raises(ModelFileError, match=message + ".*saved with other options"):
        from_arrays(_tree() | change, arrays, "run")


def test_the_newest_are_kept_and_the_permanent(tmp_path):
    store = CheckpointStore(tmp_path, total_limit=2, permanent_every=4)
    for step in range(1, 11):
        store.save(step, {"x": np.zeros(2)}, {})
    assert store.steps() == [4, 8, 9, 10]
    assert sorted(os.listdir(tmp_path)) == [f"step-{n:08d}" for n in (4, 8, 9, 10)]


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [_flip, _cut, pathlib.Path.unlink])
@pytest.mark.parametrize("name", ["state.safetensors", "notes.json", "manifest.json"])
def test_damage_is_found_and_the_one_before_taken(tmp_path, harm, name):
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(step, state(step), {"step": step})
    harm(tmp_path / "step-00000002" / name)
    with pytest.raises(ModelFileError, match="step-00000002"):
        store.read(2)
    with pytest.warns(
        UserWarning, match="damaged checkpoint is left out.*step-0000000"
    ):
        newest = store.newest()
    assert newest is not None
    assert newest.step == 1


def test_a_checkpoint_of_another_step_is_damaged(tmp_path):
    store = CheckpointStore(tmp_path)
    os.rename(store.save(1, {"x": np.zeros(2)}, {}), store.path(2))
    with pytest.raises(ModelFileError, match="must be as its manifest.json says"):
        store.read(2)
    with pytest.raises(ModelFileError, match=r"checkpoint of step 3; it has .* \[2\]"):
        store.read(3)


def test_a_write_that_fails_leaves_those_before(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, total_limit=1)
    store.save(1, {"x": np.ones(2)}, {})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("draftx.io.formats._atomic._fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, {"x": np.zeros(2)}, {})
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert store.newest() is not None


def test_what_the_dead_left_is_swept_and_the_living_keep_theirs(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    dead = tmp_path / f".step-00000001.tmp-{process.pid}-01234567"
    alive = tmp_path / f".step-00000002.old-{os.getpid()}-01234567"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "state.safetensors").write_text("")
    file = tmp_path / f".lora.safetensors.tmp-{process.pid}-89abcdef"
    file.touch()
    (tmp_path / ".hidden").touch()
    CheckpointStore(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", alive.name]


@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_kill_at_any_moment_costs_one_checkpoint_at_most(tmp_path, kills):
    rng, first = np.random.default_rng(0), 1
    for _ in range(kills):
        seconds = rng.uniform(0, 0.1)
        last = kill_while_writing("safetensors", tmp_path, first, seconds)
        store = CheckpointStore(tmp_path)
        newest = store.newest()  # A warning, of damage, would be an error.
        assert newest is not None
        assert newest.step in (last, last + 1)
        assert newest.notes == {"step": newest.step}
        for name, array in state(newest.step).items():
            np.testing.assert_array_equal(newest.arrays[name], array)
        for step in store.steps():
            store.read(step)
        assert not list(tmp_path.glob(".*"))
        first = newest.step + 1
