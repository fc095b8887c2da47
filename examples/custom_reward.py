"""Fine-tunes on a reward of one's own, which is told how bright each image should be.

Any function of images is a reward: one score each, differentiable, larger is better.
With a second argument it is also given the columns of the table of prompts, one row for
each image. `draftx.rewards` adds functions up, and weighs them.
"""

import jax.numpy as jnp
import jax.random as jr

import draftx


TABLE = {
    "prompt": ["a fox, 3d style", "a fox, flat style", "a cat, 3d style"],
    "brightness": [0.2, 0.8, 0.8],
}


def as_bright_as_asked(images, rows):
    """Scores images by the distance of their mean from what their row asks for."""
    brightness = jnp.mean(images, axis=(1, 2, 3))
    return -((brightness - rows["brightness"]) ** 2)


def smoothness(images):
    """Scores images by the differences between neighbors."""
    return -jnp.mean(jnp.diff(images, axis=1) ** 2, axis=(1, 2, 3))


def main(num_train_steps: int = 20, num_inference_steps: int = 5) -> None:
    pipeline = draftx.add_lora(draftx.load("tiny"), rank=4, key=jr.key(0))
    result = draftx.finetune(
        pipeline,
        draftx.rewards.WeightedSum([as_bright_as_asked, smoothness], [1.0, 0.1]),
        TABLE,
        draftx.Sampling(num_inference_steps, guidance_scale=4.0),
        method=draftx.DRaFT(truncation_steps=1),
        key=jr.key(1),
        num_train_steps=num_train_steps,
        batch_size=2,
        optimizer=draftx.adamw(1e-3),
    )
    print([round(row["reward"], 4) for row in result.history])


if __name__ == "__main__":
    main()
