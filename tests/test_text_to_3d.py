"""The renderer of the example of text to 3D, and the example itself, in small."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from .helpers import assert_close


_ROOT = pathlib.Path(__file__).parent.parent
_ANGLES = jnp.asarray([0.0, 0.4])
_COLORS = jnp.asarray([[0.2, 0.4, 0.6], [1.0, 0.5, 0.0]])


@pytest.fixture
def voxels(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    return importlib.import_module("_voxels")


def _grid(size, density, color):
    """Has the same numbers everywhere."""
    shape = (size, size, size)
    return {
        "density": jnp.full((*shape, 1), density),
        "color": jnp.full((*shape, 3), color),
    }


def test_nothing_is_the_background(voxels):
    images, depths = voxels.views(_grid(4, -50.0, 0.0), _ANGLES, _COLORS, size=6)
    assert_close(images, jnp.broadcast_to(_COLORS[:, None, None], images.shape))
    assert_close(depths, jnp.ones_like(depths))


def test_what_is_dense_hides_all_behind(voxels):
    images, depths = voxels.views(_grid(4, 50.0, 1.0), _ANGLES[:1], _COLORS[:1], size=6)
    assert_close(images, jnp.full_like(images, jax.nn.sigmoid(1.0)))
    assert float(depths.max()) < 1e-6


def test_light_is_absorbed_by_half(voxels):
    """In closed form: density s along a length l leaves exp(-s l)."""
    density = np.log(np.expm1(np.log(2) / 16))
    grid = _grid(5, float(density), 30.0)
    images, _ = voxels.views(grid, _ANGLES[:1], 0 * _COLORS[:1], size=3, samples=9)
    assert_close(images, jnp.full_like(images, 0.5))


def test_a_quarter_turn_turns_the_grid(voxels):
    grid = voxels.make_grid(jr.key(0), 6, noise=2.0)
    turned = jax.tree.map(lambda x: jnp.rot90(x, axes=(0, 2)), grid)
    draw = lambda grid, angle: voxels.views(
        grid, jnp.asarray([angle]), _COLORS[:1], size=6, samples=6
    )[0]
    front, side = draw(grid, 0.0), draw(grid, jnp.pi / 2)
    assert float(jnp.abs(front - side).max()) > 0.05
    # From one side or from the other.
    errors = [
        float(jnp.abs(draw(x, 0.0) - side).max())
        for x in (turned, jax.tree.map(lambda x: jnp.rot90(x, 3, axes=(0, 2)), grid))
    ]
    assert min(errors) < 1e-4


def test_gradient_is_that_of_finite_differences(voxels):
    with jax.enable_x64(True):
        grid = voxels.make_grid(jr.key(1), 4, noise=1.0)
        grid = jax.tree.map(lambda x: x.astype(jnp.float64), grid)
        rng = np.random.default_rng(0)
        weights = jnp.asarray(rng.normal(size=(2, 5, 5, 3)))
        angles, colors = _ANGLES.astype(jnp.float64), _COLORS.astype(jnp.float64)

        @jax.jit
        def loss(grid):
            images, depths = voxels.views(grid, angles, colors, size=5, samples=6)
            return jnp.sum(weights * images) + jnp.sum(depths**2)

        gradient = jax.grad(loss)(grid)
        for name in grid:
            toward = jnp.asarray(rng.normal(size=grid[name].shape))
            moved = [grid | {name: grid[name] + h * toward} for h in (1e-5, -1e-5)]
            slope = (loss(moved[0]) - loss(moved[1])) / 2e-5
            np.testing.assert_allclose(
                jnp.sum(gradient[name] * toward), slope, rtol=1e-7, err_msg=name
            )


@pytest.mark.slow
def test_it_writes_what_it_says(tmp_path):
    done = subprocess.run(
        [sys.executable, "examples/text_to_3d.py", f"--out={tmp_path}"]
        + ["--steps=2", "--num-views=2", "--variants", "score", "all"],
        cwd=_ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("views.png", "picture.png", "all.gif", "all.npz", "score.gif"):
        assert (tmp_path / name).stat().st_size > 0
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures.keys() == {"score", "all"}
    assert all(np.isfinite(x) for row in figures.values() for x in row.values())
    assert done.stdout.count("| score | ") == 1


@pytest.mark.slow
def test_the_embedded_judge_recognizes_what_is_distilled():
    """The picture itself as latents, with no reward."""
    sys.path.insert(0, str(_ROOT / "examples"))
    try:
        from _common import seen_by_judge
    finally:
        sys.path.pop(0)
    import draftx
    from draftx import distillation

    animals = ["fox", "pig", "dog", "tiger"]
    pipeline = draftx.load("tiny")
    start = 0.1 * jr.normal(jr.key(3), (len(animals), *pipeline.latent_shape))
    result = distillation.distill(
        pipeline,
        lambda latents, key: latents,
        start,
        [f"a {animal}, 3d style" for animal in animals],
        draftx.Sampling(guidance_scale=4.0),
        key=jr.key(0),
        num_train_steps=150,
        method=distillation.ScoreDistillation(renders="latents"),
        optimizer=draftx.adamw(3e-2, weight_decay=0.0),
        callbacks=(),
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        seen = seen_by_judge(pipeline.decode(result.params))
    assert seen["animal"] == animals
    assert seen["style"] == ["3d"] * len(animals)
