"""Training runs that the scripts share: each is done once, whoever asks for it."""

import argparse
import dataclasses
import functools as ft
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _common import ANIMALS, load, ROOT

import draftx


FOLDER = ROOT / "outputs" / "paper" / "runs"
TRAINED = tuple(f"a {animal}" for animal in ANIMALS)
HELD_OUT = ("a fox", "a cow", "a duck", "a wolf")


@ft.cache
def make_reward(name: str) -> draftx.AbstractReward:
    """A reward by its name: of JPEG, or what `draftx.rewards.load` knows."""
    match name:
        case "compressibility":
            return draftx.rewards.JPEGCompressibility()
        case "incompressibility":
            return draftx.rewards.JPEGIncompressibility()
        case "rotation":
            return draftx.rewards.RotationAntiCorrelation()
        case _:
            return draftx.rewards.load(name)


def load_quick(args: argparse.Namespace) -> tuple[draftx.Pipeline, int]:
    """As `_common.load`, with 10 sampling steps on the embedded model unless told."""
    if args.num_inference_steps is None and not args.full:
        args.num_inference_steps = 10
    pipeline = load(args)  # Fills in what was not told.
    return pipeline, int(args.num_inference_steps or 0)


def guidance(args: argparse.Namespace) -> float:
    """The guidance scale that goes with the model."""
    return 7.5 if args.full else 4.0


def sampling_of(args: argparse.Namespace) -> draftx.Sampling:
    """How images are drawn: as many steps as were asked for, the model's guidance."""
    return draftx.Sampling(args.num_inference_steps, guidance(args))


def default_rates(args: argparse.Namespace) -> list[float]:
    """Learning rates to choose from; the paper's are for thousands of steps.

    On the embedded model 2e-3 was behind 4e-3 with every method of reward_by_step.py.
    """
    return [2e-4, 4e-4] if args.full else [4e-3, 8e-3]


def path_of(row: dict[str, Any]) -> pathlib.Path:
    """The adapter of a run: for `draftx.load_lora`."""
    return FOLDER / f"{row['run']}.safetensors"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    **Arguments:**

    - `method`, `num_train_steps`: As for `draftx.finetune`, or for
        `draftx.finetune_in_rounds`.
    - `reward`, `others`: What is trained on, and what is watched beside, by name.
    - `every`: Steps from one evaluation to the next; a third of all if `None`.
    - `early_stopping`: Goes by the held-out reward.
    """

    method: draftx.AbstractGradientEstimator | draftx.finetuning.AbstractRoundMethod
    num_train_steps: int
    reward: str = "compressibility"
    others: tuple[str, ...] = ()
    every: int | None = None
    early_stopping: draftx.EarlyStopping | None = None


def train(
    pipeline: draftx.Pipeline,
    recipe: Recipe,
    args: argparse.Namespace,
    *,
    seed: int,
    learning_rate: float,
) -> dict[str, Any]:
    """What a training came to, from `outputs/paper/runs` if it has been done before.

    **Arguments:**

    - `pipeline`: As `_common.load` gives it; an adapter is added here.
    - `recipe`: What is trained, on what, for how long.
    - `args`: Of `_common.parser`, after `_common.load`.
    - `seed`: Of the adapter, the prompts and the noise. The held-out noise is the same
        for all.

    **Returns:**

    The settings and, as lists by step, `reward` (of the batch), `reward_queries`,
    `unet_forwards` and `unet_backwards` (sums until then); `evaluations`, whose first
    is from before training and which have `step`, `reward`, those of `others`,
    `diversity` and `diversity_across`; `stopped`, `kept_step` and `seconds`.
    """
    every = recipe.every or max(1, recipe.num_train_steps // 3)
    key = {
        "model": args.model,
        "steps": args.num_inference_steps,
        "batch": args.batch,
        "rank": args.rank,
        "guidance": guidance(args),
        "method": repr(recipe.method),
        "trained_on": recipe.reward,
        "others": list(recipe.others),
        "prompts": list(TRAINED),
        "held_out": list(HELD_OUT),
        "learning_rate": learning_rate,
        "num_train_steps": recipe.num_train_steps,
        "every": every,
        "early_stopping": repr(recipe.early_stopping),
        "seed": seed,
    }
    run = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = FOLDER / f"{run}.json"
    if path.exists():
        return json.loads(path.read_text())
    draftx.enable_compilation_cache()
    FOLDER.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    adapter_key, train_key = jr.split(jr.key(seed))
    pipeline = draftx.add_lora(pipeline, rank=args.rank, key=adapter_key)
    sampling = sampling_of(args)
    rewards = {name: make_reward(name) for name in recipe.others}
    evaluation = draftx.Evaluation(
        HELD_OUT,
        {"reward": make_reward(recipe.reward)} | rewards,
        sampling,
        every=every,
        weights={"reward": 1.0},
        key=jr.key(1),
    )
    method: Any = recipe.method
    is_estimator = isinstance(method, draftx.AbstractGradientEstimator)
    finetune: Any = draftx.finetune if is_estimator else draftx.finetune_in_rounds
    result = finetune(
        pipeline,
        make_reward(recipe.reward),
        TRAINED,
        sampling,
        method=method,
        key=train_key,
        num_train_steps=recipe.num_train_steps,
        batch_size=args.batch,
        optimizer=_adamw(learning_rate),
        evaluation=evaluation,
        stopping=draftx.Stopping(early_stopping=recipe.early_stopping),
    )
    names = ("reward", "reward_queries", "unet_forwards", "unet_backwards")
    row = key | {name: [row.get(name) for row in result.history] for name in names}
    row |= {"run": run, "evaluations": list(result.evaluations)}
    row |= {"stopped": result.stopped}
    row |= {"kept_step": result.step, "seconds": round(time.perf_counter() - start, 1)}
    draftx.save_lora(result.pipeline, path_of(row))
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(row) + "\n")
    unfinished.rename(path)  # A run that was cut off leaves nothing.
    return row


def held_out_at(row: dict[str, Any], step: int, name: str = "reward") -> float:
    """A held-out figure after so many steps, of a run that was evaluated there."""
    return {e["step"]: e[name] for e in row["evaluations"]}[step]


def evaluations_at(row: dict[str, Any], step: int) -> float:
    """UNet evaluations until then, forward and backward passes each counted as one."""
    return row["unet_forwards"][step - 1] + row["unet_backwards"][step - 1]


def tuned(
    pipeline: draftx.Pipeline,
    recipe: Recipe,
    args: argparse.Namespace,
    *,
    learning_rates: Sequence[float],
    seeds: int,
    at: int | None = None,
) -> list[dict[str, Any]]:
    """Runs of several seeds, at the rate that gave the first the best held-out reward.

    **Arguments:**

    - `at`: The step whose reward counts, one with an evaluation; `None` is the last.
    """
    first = [
        train(pipeline, recipe, args, seed=0, learning_rate=rate)
        for rate in learning_rates
    ]
    last = recipe.num_train_steps
    best = max(first, key=lambda row: held_out_at(row, at or last))
    rate = best["learning_rate"]
    return [best] + [
        train(pipeline, recipe, args, seed=seed, learning_rate=rate)
        for seed in range(1, seeds)
    ]


def compare(first: np.ndarray, second: np.ndarray) -> str:
    """Whether the first is ahead, by more than what seeds differ by."""
    difference = first.mean() - second.mean()
    if abs(difference) <= np.hypot(first.std(), second.std()):
        return "within the spread"
    return "yes" if difference > 0 else "no"


def write(folder: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows of a figure as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines)


class _State(NamedTuple):
    rate: Any
    inner: Any


@dataclasses.dataclass(frozen=True)
class _Initialize:
    """Equal for all rates, so that one compiled program serves them."""

    rate: float = dataclasses.field(compare=False)

    def __call__(self, params: Any) -> _State:
        return _State(jnp.asarray(self.rate, jnp.float32), _UNIT.init(params))


# The paper's, but for the rate: AdamW's step is in proportion to it.
_UNIT = optax.adamw(1.0, b1=0.9, b2=0.999, weight_decay=0.1)


def _update(updates: Any, state: Any, params: Any = None) -> tuple[Any, _State]:
    updates, inner = _UNIT.update(updates, state.inner, params)
    scaled = optax.tree.scale(state.rate, updates)
    return scaled, _State(state.rate, inner)


def _adamw(rate: float) -> optax.GradientTransformation:
    return optax.GradientTransformation(_Initialize(rate), _update)
