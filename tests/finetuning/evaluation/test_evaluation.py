import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.finetuning import coarse_pixels, Evaluation

from ...toys import toy_reward
from ..short import SAMPLING


_MEAN = {"mean": lambda images: jnp.mean(images, axis=(1, 2, 3))}


def test_evaluations_are_in_the_history(pipeline, result, evaluation):
    assert [figures["step"] for figures in result.evaluations] == [0, 4, 6]
    names = {"score", "there", "against", "diversity", "diversity_across"}
    for i, row in enumerate(result.history):
        held_out = {x for x in row if x.startswith("held_out/")}
        expected = names if i in (3, 5) else set()
        assert held_out == {f"held_out/{name}" for name in expected}
    before, _, last = result.evaluations
    assert {f"before/{name}" for name in names} <= set(result.history[0])
    assert before["score"] == pytest.approx(before["there"] + 2 * before["diversity"])
    assert before["against"] == pytest.approx(-before["there"])
    again = evaluation(result.pipeline)
    assert again == {name: last[name] for name in again}


def test_the_figures_are_those_of_pictures_drawn_alone(pipeline, evaluation):
    figures = evaluation(pipeline)
    images = [
        draftx.sample(
            pipeline,
            [evaluation.table.prompts[i // 2]] * 3,
            SAMPLING,
            latents=evaluation.latents(pipeline, np.asarray([i, i, i])),
        )
        for i in range(4)
    ]
    rewards = [toy_reward(image) for image in images]
    assert figures["there"] == pytest.approx(float(np.mean(rewards)), rel=1e-5)
    x = [np.asarray(coarse_pixels(image)[0]) for image in images]
    distance = lambda i, j: np.linalg.norm(x[i] - x[j])
    within = (distance(0, 1) + distance(2, 3)) / 2
    assert figures["diversity"] == pytest.approx(within, rel=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Evaluation([], _MEAN), "`prompts`"),
        (lambda: Evaluation(["a"], {}), "`rewards` must name at least one"),
        (
            lambda: Evaluation(["a"], {"score": _MEAN["mean"]}),
            "must not be named 'score'",
        ),
        (lambda: Evaluation(["a"], _MEAN, every=0), "`every` must be a whole"),
        (lambda: Evaluation(["a"], _MEAN, num_samples=0), "`num_samples` must be"),
        (lambda: Evaluation(["a"], _MEAN, batch_size=0), "`batch_size` must be"),
        (lambda: Evaluation(["a"], _MEAN, weights={"x": 1.0}), "`weights` must be of"),
        (
            lambda: Evaluation(["a"], _MEAN, num_samples=1, weights={"diversity": 1.0}),
            r"among \['mean'\]",
        ),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
