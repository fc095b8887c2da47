"""Batches and weights divided over devices: processes of their own, as the number of
devices is settled once for each."""

import functools
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import jax
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import _mesh, search

from ..goldens import make_gradient as reference
from ..toys import make_pipeline


_ROOT = pathlib.Path(__file__).parents[2]
_PROMPTS = ["a cat", "a dog", "a red car", "two birds"] * 2
_SAMPLING = draftx.Sampling(3, eta=1.0)


def toy() -> draftx.Pipeline:
    with np.load(reference.PATH) as file:
        return make_pipeline(dict(file))


def toy_gradient(pipeline, memory):
    rewards, gradient = draftx.reward_gradient(
        pipeline,
        reference.reward,
        _PROMPTS,
        _SAMPLING,
        method=draftx.DRaFT(truncation_steps=2),
        memory=draftx.Memory(memory),
    )
    return [rewards, *jax.tree.leaves(gradient)]


def _training(pipeline, run, method):
    result = run(
        pipeline,
        reference.reward,
        _PROMPTS,
        _SAMPLING,
        method=method,
        key=jr.key(0),
        num_train_steps=5,
        batch_size=8,
        optimizer=draftx.adamw(1e-3),
        callbacks=(),
    )
    return [
        np.asarray([row["reward"] for row in result.history]),
        *draftx.lora_state_dict(result.pipeline).values(),
    ]


def _search(pipeline):
    fit = search.fit_value(
        pipeline,
        reference.reward,
        _PROMPTS,
        _SAMPLING,
        num_images=8,
        num_train_steps=2,
        batch_size=8,
    )
    found = [
        search.best_of_n(pipeline, reference.reward, _PROMPTS, _SAMPLING, n=2),
        search.doodl(pipeline, reference.reward, _PROMPTS, _SAMPLING, num_steps=2),
        search.svdd(pipeline, reference.reward, _PROMPTS, _SAMPLING),
        search.svdd(pipeline, reference.reward, _PROMPTS, _SAMPLING, value=fit.value),
        search.smc(pipeline, reference.reward, _PROMPTS, _SAMPLING, num_particles=2),
    ]
    return [x for result in found for x in (result.rewards, result.images)]


_WORK = {
    "gradient": lambda pipeline: toy_gradient(pipeline, "step"),
    "gradient of blocks": lambda pipeline: toy_gradient(pipeline, "block"),
    "training": lambda p: _training(p, draftx.finetune, draftx.DRaFTLV()),
    "rounds": lambda p: _training(p, draftx.finetune_in_rounds, draftx.DDPO()),
    "images": lambda p: [draftx.sample(p, _PROMPTS, _SAMPLING)],
    "search": _search,
}
# What is learned in five steps of an optimizer that divides by small numbers.
_TOLERANCES = {"training": 1e-3, "rounds": 1e-3}


def flat(arrays) -> np.ndarray:
    return np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in _mesh.to_host(list(arrays))]
    )


def main(devices: str, mesh: str, *names: str) -> None:
    """Writes what the works give on a mesh, with weights of all sizes divided."""
    jax.config.update("jax_num_cpu_devices", int(devices))
    _mesh._LEAST_SIZE = 64
    pipeline = draftx.shard(toy(), mesh)
    for name in names:
        np.save(f"{name}.npy", flat(_WORK[name](pipeline)))
    leaves = jax.tree.leaves((pipeline.unet, pipeline.vae, pipeline.text_encoder))
    parts = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    print(parts / sum(x.nbytes for x in leaves))


@functools.cache
def _expected(name: str) -> np.ndarray:
    return flat(_WORK[name](toy()))


def _check(folder: pathlib.Path, devices: int, mesh: str, names: Sequence[str]) -> None:
    code = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
    code += f"from {__name__} import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(devices), mesh, *names]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    # Of the weights, a device has its part, and what is too small to be divided.
    parts = draftx._mesh._parse(mesh).get("model", 1)
    assert float(done.stdout) <= 1.1 / parts
    for name in names:
        expected, actual = _expected(name), np.load(folder / f"{name}.npy")
        error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        assert error <= _TOLERANCES.get(name, 1e-5), (name, error)


def test_the_gradient_on_a_mesh_is_the_same(tmp_path):
    _check(tmp_path, 4, "data=2,model=2", ["gradient"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "mesh", "names"),
    [
        (2, "data=2", ("gradient", "training")),
        (2, "model=2", ("gradient", "gradient of blocks")),
        (4, "data=2,model=2", ("training", "rounds", "images", "search")),
        (8, "data=4,model=2", ("gradient", "training")),
    ],
)
def test_all_of_it_on_meshes(tmp_path, devices, mesh, names):
    _check(tmp_path, devices, mesh, names)


def test_a_pipeline_stays_where_it_was_put():
    pipeline = draftx.shard(toy(), "data=1")
    assert _mesh.mesh_of(pipeline).shape == {"data": 1}
    assert _mesh.mesh_of(toy()) is None


@pytest.mark.parametrize(
    "mesh",
    ["", "data", "data=", "data=0", "data=x", "data=-1", "data=1.5", "rows=1"]
    + ["data=1,data=1", "data=1,model", "data=1;model=1"],
)
def test_what_is_no_mesh_is_named(mesh):
    with pytest.raises(ValueError, match="`mesh` must be sizes of the axes"):
        draftx.shard(toy(), mesh)


def test_a_mesh_must_have_the_devices_there_are():
    with pytest.raises(ValueError, match=r"there are, 1; got 'data=8'.* Use 'data=1'"):
        draftx.shard(toy(), "data=8")
    with pytest.raises(ValueError, match="`mesh` must be sizes"):
        draftx.shard(toy(), jax.make_mesh((1,), ("batch",)))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((320, 320, 3, 3), 0),
        ((3, 3, 320, 640), 3),
        ((1280, 321), 0),
        ((321, 1280), 1),
        ((321, 323), None),
        ((320,), None),
    ],
)
def test_a_weight_is_divided_along_its_longest_axis(shape, axis):
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    assert _mesh.weight_axis(shape, mesh) == axis
    assert _mesh.weight_axis(shape, jax.sharding.AbstractMesh((8,), ("data",))) is None


def test_a_batch_that_cannot_be_divided_is_named():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    _mesh.check_divides("batch_size", 16, mesh)
    with pytest.raises(ValueError, match="by the number of devices, 8; .* 8 or 16"):
        _mesh.check_divides("batch_size", 12, mesh)
    with pytest.raises(ValueError, match="got 4. Use 8"):
        _mesh.check_divides("batch_size", 4, mesh)
