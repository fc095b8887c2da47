"""Times, weights and the rules about options."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.distillation import ScoreDistillation, TimeAnnealing

from ..helpers import assert_close


def _drawn(method, step=0, total=1000, count=4000):
    keys = jr.split(jr.key(0), count)
    draw = lambda key: method.draw_timestep(key, jnp.asarray(step), total)
    return np.asarray(jax.jit(jax.vmap(draw))(keys))


def test_times_are_drawn_evenly_from_the_range():
    times = _drawn(ScoreDistillation((0.2, 0.4)))
    assert (times.min(), times.max()) == (200, 400)
    np.testing.assert_allclose(times.mean(), 300, atol=5)
    np.testing.assert_allclose(times.std(), 200 / 12**0.5, rtol=0.05)
    whole = _drawn(ScoreDistillation((0.0, 1.0)), total=5)
    assert np.bincount(whole).tolist() == pytest.approx([800] * 5, rel=0.15)
    assert set(_drawn(ScoreDistillation((0.5, 0.5)))) == {500}


@pytest.mark.parametrize(
    ("power", "step", "expected"),
    [
        (1.0, 0, (0.2, 0.8)),
        (1.0, 25, (0.15, 0.7)),
        (0.5, 25, (0.1, 0.6)),
        (1.0, 100, (0.0, 0.4)),
        (1.0, 900, (0.0, 0.4)),
    ],
)
def test_annealing_moves_both_ends(power, step, expected):
    annealing = TimeAnnealing((0.0, 0.4), 100, power)
    times = _drawn(ScoreDistillation((0.2, 0.8), annealing), step)
    assert [times.min(), times.max()] == pytest.approx(
        [round(999 * end) for end in expected], abs=2
    )


def test_weights_are_of_the_noise():
    signal, sigma = jnp.float32(0.8), jnp.float32(0.6)
    weight = lambda weighting: ScoreDistillation(weighting=weighting).weight(
        signal, sigma
    )
    assert_close(weight("sigma_squared"), jnp.float32(0.36))
    assert_close(weight("uniform"), jnp.float32(1.0))
    # Fantasia3D's.
    assert_close(weight(lambda a, s: a * s**2), jnp.float32(0.8 * 0.36))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(time_range=(0.5, 0.1)), r"`time_range` must not fall; got \(0.5, 0.1\)"),
        (dict(time_range=(0.1, 1.1)), r"`time_range` must lie in \[0, 1\]; got 1.1"),
        (dict(time_range=0.5), "`time_range` must be two fractions.* got 0.5"),
        (dict(annealing=(0, 1)), "`annealing` must be a TimeAnnealing"),
        (dict(weighting="snr"), "`weighting` must be one of .*, or a function.*'snr'"),
        (dict(renders="pixels"), "`renders` must be one of .*; got 'pixels'"),
        (dict(noises=8), "`noises` must be a RewardedNoises"),
    ],
)
def test_what_is_wrong_is_named(options, text, without_types):
    with pytest.raises(ValueError, match=text):
        ScoreDistillation(**options)


def test_what_is_wrong_with_annealing_is_named(without_types):
    with pytest.raises(ValueError, match="`final_time_range` must lie in"):
        TimeAnnealing((-0.1, 0.5), 10)
