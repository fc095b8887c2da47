"""Makes a thing of three dimensions of a text: score distillation, and a picture of it.

python examples/text_to_3d.py                                   # about eight minutes
python examples/text_to_3d.py --prompt "a tiger, flat style" --variants all
python examples/text_to_3d.py --prompt "a fox" --picture mine.png --variants prompt

Distils the embedded model into a 32x32x32 grid of density and color, whose renderer is
in `_voxels.py`: `draftx.distillation` takes any. The model knows front views alone, so
cameras lie on an arc of 30 degrees to either side. As in VP3D, the model first draws a
picture, the visual prompt, which the score is then conditioned on besides the text (its
tokens are attended to), and two rewards look at the same renderings: how well they show
the text, and how like the picture they are. The table is the paper's ablation.

Every view of a step has a background of its own, which its prompt names, so that what
is seen belongs to the thing. Figures are of other angles, before a background that no
step had:

| a fox, 3d style | CLIP score | consistency | likeness | recognized |
| --- | --- | --- | --- | --- |
| score | 0.674 | 0.962 | 0.612 | 100 % |
| and the picture as a prompt | 0.670 | 0.965 | 0.606 | 100 % |
| and the reward of the text | 0.712 | 0.960 | 0.615 | 100 % |
| and the reward of consistency | 0.669 | 0.970 | 0.610 | 100 % |
| all three | 0.710 | 0.972 | 0.614 | 100 % |

Each reward brings what it asks for, the picture as a prompt little beside them.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _common import load_reward, or_exit, seen_by_judge
from _pictures import captioned_grid, to_uint8
from _prompts import animal_of
from _voxels import Grid, make_grid, views
from PIL import Image

import draftx
from draftx import distillation


# Names and values of the embedded data's, in 255ths.
BACKGROUNDS = {
    "white": (248, 248, 250),
    "teal": (24, 170, 170),
    "pink": (250, 128, 184),
    "gray": (134, 138, 144),
}
HELD_OUT = ("blue", (44, 98, 216))
ARC = jnp.pi / 6
# Of what is on: the visual prompt, and the weights of text and consistency.
VARIANTS = {
    "score": (False, 0.0, 0.0),
    "prompt": (True, 0.0, 0.0),
    "text": (False, 1.0, 0.0),
    "consistency": (False, 0.0, 1.0),
    "all": (True, 1.0, 1.0),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompt", default="a fox, 3d style")
    parser.add_argument("--picture", type=pathlib.Path, help="instead of a drawn one")
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--text-weight", type=float, default=50.0)
    parser.add_argument("--consistency-weight", type=float, default=50.0)
    parser.add_argument(
        "--num-noises", type=int, default=1, help="RewardSDS's, by CLIP; 8 in the paper"
    )
    parser.add_argument("--num-views", type=int, default=9, help="measured and drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("outputs/text_to_3d")
    )
    return parser.parse_args()


class Scene:
    """What is asked for, the model, the picture and the judges."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.pipeline = or_exit(draftx.load, "tiny")
        self.prompts = [self.in_front_of(name) for name in BACKGROUNDS]
        self.colors = _color(*BACKGROUNDS.values())
        self.picture = self._picture()
        clip: Any = load_reward("tiny-clip")
        self.clip = clip
        network: Any = load_reward("tiny-classifier", {"target": "fox"})
        self.consistency = draftx.rewards.FeatureSimilarity(
            network.classifier.features, self.picture, preprocess=network.preprocess
        )
        self.likeness = draftx.rewards.FeatureSimilarity(
            clip.model.image_features, self.picture, preprocess=clip.preprocess
        )

    def in_front_of(self, background: str) -> str:
        return f"{self.args.prompt}, on a plain {background} background"

    def _picture(self) -> jax.Array:
        if self.args.picture is not None:
            image = Image.open(self.args.picture).convert("RGB").resize((64, 64))
            return jnp.asarray(np.asarray(image), jnp.float32)[None] / 255
        sampling = draftx.Sampling(20, guidance_scale=4.0)
        key = jr.key(self.args.seed + 1)
        return draftx.sample(self.pipeline, self.prompts[:1], sampling, key=key)

    def render(self, grid: Grid, key: jax.Array) -> jax.Array:
        """Each view from an angle of the arc, before a background of its own."""
        angles = jr.uniform(key, (len(self.colors),), minval=-ARC, maxval=ARC)
        return views(grid, angles, self.colors)[0]

    def distil(self, name: str) -> distillation.DistillationResult:
        """Optimizes a grid, with what a variant has."""
        args = self.args
        has_prompt, *times = VARIANTS[name]
        terms = {
            "text": (self.clip, args.text_weight * times[0]),
            "consistency": (self.consistency, args.consistency_weight * times[1]),
        }
        terms = {name: term for name, term in terms.items() if term[1]}
        reward = None
        if terms:
            rewards, weights = zip(*terms.values(), strict=True)
            reward = draftx.rewards.WeightedSum(rewards, weights, list(terms))
        noises = None
        if args.num_noises > 1:
            best = distillation.BestAndWorst(1, 1)
            noises = distillation.RewardedNoises(self.clip, best, args.num_noises, 5)
        return distillation.distill(
            self.pipeline,
            self.render,
            make_grid(jr.key(args.seed)),
            self.prompts,
            draftx.Sampling(guidance_scale=args.guidance_scale),
            key=jr.key(args.seed),
            num_train_steps=args.steps,
            method=distillation.ScoreDistillation(noises=noises),
            reward=reward,
            visual_prompt=distillation.VisualPrompt(self.picture)
            if has_prompt
            else None,
            optimizer=draftx.adamw(args.learning_rate, weight_decay=0.0),
            callbacks=(draftx.ProgressBar(name=name),),
        )

    def measure(self, grid: Grid) -> dict[str, float]:
        """Figures of views that nothing was optimized for."""
        name, color = HELD_OUT
        images, _ = self.look(grid, color)
        prompts = [self.in_front_of(name)] * len(images)
        of = lambda reward: float(jnp.mean(_judge(reward, images, prompts)))
        figures = {
            "CLIP score": of(self.clip),
            "consistency": 1 + of(self.consistency),
            "likeness": 1 + of(self.likeness),
        }
        animal = animal_of(self.args.prompt)
        seen = seen_by_judge(images)["animal"]
        return figures | {"recognized": float(np.mean(np.equal(seen, animal)))}

    def look(self, grid: Grid, color: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        """Renders views all along the arc, and their depths."""
        count = self.args.num_views
        background = jnp.tile(_color(color), (count, 1))
        return jax.jit(views)(grid, jnp.linspace(-ARC, ARC, count), background)


def _judge(reward: draftx.AbstractReward, images: jax.Array, prompts: list[str]) -> Any:
    call = eqx.filter_jit(lambda reward, *args: reward(*args))
    return call(reward, images, reward.prepare(prompts))


def _color(*values: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(values, jnp.float32) / 255


def turntable(path: pathlib.Path, grid: Grid, *, frames: int = 24) -> None:
    """Writes an animation to and fro along the arc, four times as large."""
    angles = ARC * jnp.sin(jnp.linspace(0, 2 * jnp.pi, frames, endpoint=False))
    background = jnp.tile(_color(BACKGROUNDS["white"]), (frames, 1))
    draw: Callable[..., Any] = jax.jit(lambda *args: views(*args, size=256, samples=64))
    pictures = [Image.fromarray(x) for x in to_uint8(draw(grid, angles, background)[0])]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=80, loop=0
    )


def main() -> None:
    args, start = parse(), time.perf_counter()
    draftx.enable_compilation_cache()
    scene = Scene(args)
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(scene.picture)[0]).save(args.out / "picture.png")
    figures, rows = {}, {}
    for name in args.variants:
        grid = scene.distil(name).params
        figures[name] = scene.measure(grid)
        images, depths = scene.look(grid, BACKGROUNDS["white"])
        rows |= {name: images, f"{name}, depth": jnp.stack([depths] * 3, axis=-1)}
        np.savez_compressed(args.out / f"{name}.npz", **grid)
        turntable(args.out / f"{name}.gif", grid)
    degrees = [f"{x:.0f}°" for x in np.linspace(-30, 30, args.num_views)]
    captioned_grid(args.out / "views.png", rows, degrees)
    summary = {"prompt": args.prompt, "figures": figures}
    summary["seconds"] = round(time.perf_counter() - start, 1)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    header = list(next(iter(figures.values())))
    print(f"| {args.prompt} | " + " | ".join(header) + " |")
    print("| --- " * (1 + len(header)) + "|")
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in row.values()) + " |")
    print(f"{summary['seconds']:.0f} s in all. Views, grids and animations are in")
    print(args.out.resolve())


if __name__ == "__main__":
    main()
