"""Arrays that do not lie in memory as they look: what is written is what they are."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx import load, load_lora, save, save_lora
from draftx.io.checkpoints import CheckpointStore
from draftx.io.formats import TensorFile, write_tensors

from .tiny import assert_equal, random_lora


_SHAPE = (2, 3, 5, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_every_order_of_axes_and_every_stride(dtype, tmp_path):
    x = np.arange(np.prod(_SHAPE)).reshape(_SHAPE).astype(dtype)
    arrays = {str(p): np.transpose(x, p) for p in itertools.permutations(range(4))}
    arrays |= {
        "fortran": np.asfortranarray(x),
        "reversed": x[::-1, :, ::-1],
        "steps": x[:, ::2, 1::3],
        "one row": x[1],
        "broadcast": np.broadcast_to(x[:1], (7, *_SHAPE[1:])),
        "scalar": np.asarray(dtype(3)),
        "empty": x[:, :0],
        "big-endian": x.astype(np.float32).astype(">f4"),
        "field": np.zeros(3, [("a", np.float32), ("b", np.int8)])["a"],
    }
    assert sum(not a.flags.c_contiguous for a in arrays.values()) > 20
    write_tensors(tmp_path / "x.safetensors", arrays)
    file = TensorFile(tmp_path / "x.safetensors")
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, arrays, {})
    saved = store.read(1).arrays
    for name, array in arrays.items():
        for read in (file.read_exactly(name), saved[name]):
            np.testing.assert_array_equal(read, array, name)
            assert read.dtype == array.dtype.newbyteorder("=")


def _strided(tree):
    """The same numbers, each array a view with strides of another."""

    def view(x):
        if not eqx.is_array(x) or x.ndim == 0:
            return x
        # Its axes the other way round in memory, and every second of twice as many.
        twice = np.repeat(np.asarray(x), 2, axis=-1)
        return np.asfortranarray(twice)[..., ::2]

    return jax.tree.map(view, tree)


def test_models_and_adapters(pipeline, tmp_path):
    adapted = random_lora(pipeline)
    save(_strided(pipeline), tmp_path / "model")
    assert_equal(load(tmp_path / "model"), pipeline)
    save_lora(_strided(adapted), tmp_path / "strided.safetensors")
    save_lora(adapted, tmp_path / "plain.safetensors")
    strided, plain = (tmp_path / f"{n}.safetensors" for n in ("strided", "plain"))
    assert strided.read_bytes() == plain.read_bytes()
    assert_equal(load_lora(pipeline, strided), load_lora(pipeline, plain))
