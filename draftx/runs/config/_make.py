"""From a configuration to the objects that it speaks of."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh

from ..._checks import check_whole
from ..._hosts import are_several
from ..._mesh import check_divides, data_mesh, make_mesh
from ..._table import Table
from ...episodes import Budget, Memory
from ...finetuning import (
    AbstractGradientEstimator,
    adamw,
    Checkpoints,
    EarlyStopping,
    Evaluation,
    square_root_decay,
    Stopping,
    Updates,
    with_ema,
)
from ...io import load, load_lora
from ...lora import add_lora
from ...pipeline import Pipeline, Sampling, shard
from ...rewards import AbstractReward, WeightedSum
from ._config import config_fields, RunConfig
from ._methods import make_method
from ._prompts import read_prompts, split_prompts
from ._rewards import load_reward, parse_rewards, RewardSpec
from ._scenes import held_out_scenes, train_scenes


def make_pipeline(config: RunConfig) -> Pipeline:
    """Loads the model, gives it an adapter, a new one or of a file, and places both.

    **Arguments:**

    - `config`: Of the run.
    """
    pipeline = load_base(config)
    if config.init_lora is not None:
        pipeline = load_lora(pipeline, config.init_lora)
    else:
        pipeline = add_lora(
            pipeline,
            rank=config.rank,
            alpha=config.alpha,
            targets=config.targets,
            key=keys(config)["adapter"],
        )
    mesh = make_run_mesh(config)
    return pipeline if mesh is None else shard(pipeline, mesh)


def load_base(options: Any) -> Pipeline:
    """Loads the model that options name, without an adapter.

    **Arguments:**

    - `options`: The configuration of a run, or options of a command with its fields.
    """
    return load(
        options.model,
        dtype=options.dtype,
        revision=options.revision,
        variant=options.variant,
        config=options.model_config,
    )


def make_run_mesh(config: RunConfig) -> Mesh | None:
    """Makes the mesh that a run's pipeline is placed on, and checks the batch for it.

    **Arguments:**

    - `config`: Of the run. `None` is given for one host without a mesh.
    """
    mesh = None if config.mesh is None else make_mesh(config.mesh)
    if mesh is None and are_several():
        # What one host draws, all draw.
        mesh = data_mesh()
    check_divides("train_batch_size", config.train_batch_size, mesh or data_mesh())
    return mesh


def keys(config: RunConfig) -> dict[str, jax.Array]:
    """Derives a key for each use from the seed of a `config`."""
    names = ("adapter", "training", "drawing", "evaluation")
    return dict(zip(names, jr.split(jr.key(config.seed), len(names)), strict=True))


def make_prompts(config: RunConfig) -> tuple[Table, Table]:
    """Reads the prompts to train on, and those to measure on.

    **Arguments:**

    - `config`: Of the run.
    """
    if config.prompts == "scenes":
        train, held_out = Table.of(train_scenes()), Table.of(held_out_scenes())
        if config.held_out_prompts is None:
            return train, held_out
    else:
        train = read_prompts(config.prompts)
    if config.held_out_prompts is None:
        return split_prompts(train, config.held_out)
    return train, read_prompts(config.held_out_prompts)


def make_drawn(config: RunConfig, held_out: Table) -> Table:
    """Chooses the rows that a run draws to show what it has learned.

    **Arguments:**

    - `config`: Of the run.
    - `held_out`: From `make_prompts`; the first of them, unless the run has its own.
    """
    if config.validation_prompt:
        return Table.of(list(config.validation_prompt))
    count = min(config.num_validation_images, len(held_out))
    return held_out.take(np.arange(count))


def make_rewards(
    config: RunConfig,
) -> tuple[AbstractReward, dict[str, AbstractReward], dict[str, float]]:
    """Loads what is sought and what is measured.

    **Arguments:**

    - `config`: Of the run.

    **Returns:**

    The weighted sum to train on; what is measured by name; and the weights of that.
    """
    # Whoever trains has looked at the weights before.
    sought = parse_rewards(config.reward, "reward", is_measured=True)
    measured = parse_rewards(config.eval_reward, "eval_reward", is_measured=True)
    measured = measured or sought
    if not sought:
        raise ValueError("`reward` must name at least one reward; got none.")
    loaded: dict[str, AbstractReward] = {}
    for spec in (*sought, *measured):
        if spec.source not in loaded:
            loaded[spec.source] = load_reward(spec)
    return (
        _sum(sought, loaded),
        {spec.name: loaded[spec.source] for spec in measured},
        {spec.name: float(spec.weight) for spec in measured},
    )


def _sum(
    specs: list[RewardSpec], loaded: Mapping[str, AbstractReward]
) -> AbstractReward:
    if len(specs) == 1 and specs[0].weight == 1:
        return loaded[specs[0].source]
    rewards = [loaded[spec.source] for spec in specs]
    weights, names = [s.weight for s in specs], [s.name for s in specs]
    return WeightedSum(rewards, weights, names)


def make_sampling(config: RunConfig) -> Sampling:
    """Makes the options of sampling of a `config`."""
    return Sampling(**config_fields(config.sampling))


def make_memory(config: RunConfig) -> Memory:
    """Makes the options of memory of a `config`."""
    return Memory(**config_fields(config.memory))


def make_training_method(config: RunConfig) -> Any:
    """Makes the method of a `config`: a gradient estimator, or one with rounds."""
    options = config_fields(config.method)
    updates = Updates(**config_fields(config.updates))
    method = make_method(options.pop("name"), options, updates)
    if isinstance(method, AbstractGradientEstimator):
        method.check(config.sampling.num_inference_steps)
    return method


def make_optimizer(config: RunConfig) -> Any:
    """Makes the optimizer of a `config`: rate, warm-up, accumulation, average."""
    section = config.optimizer
    accumulated = check_whole(
        "optimizer.accumulation_steps", section.accumulation_steps
    )
    check_whole("optimizer.warmup_steps", section.warmup_steps, least=0)
    if accumulated > config.max_train_steps:
        raise ValueError(
            "`optimizer.accumulation_steps` must be at most `max_train_steps`, "
            f"{config.max_train_steps}, or there is no update; got {accumulated}."
        )
    rate: Any = section.learning_rate
    if section.schedule == "square-root":
        rate = square_root_decay(rate, s0=section.s0)
    if section.warmup_steps > 0:
        after: Any = rate if callable(rate) else optax.constant_schedule(rate)
        rising = optax.linear_schedule(0.0, after(0), section.warmup_steps)
        rate = optax.join_schedules([rising, after], [section.warmup_steps])
    optimizer = adamw(rate, section.weight_decay, section.max_gradient_norm)
    if section.ema_decay is not None:
        optimizer = with_ema(optimizer, section.ema_decay)
    if section.accumulation_steps == 1:
        return optimizer
    return optax.MultiSteps(optimizer, section.accumulation_steps)


def make_evaluation(
    config: RunConfig,
    prompts: Table,
    rewards: Mapping[str, AbstractReward],
    weights: Mapping[str, float],
) -> Evaluation:
    """Makes the evaluation of a run.

    **Arguments:**

    - `config`: Of the run.
    - `prompts`, `rewards`, `weights`: From `make_prompts` and `make_rewards`.
    """
    return Evaluation(
        prompts,
        rewards,
        make_sampling(config),
        weights=weights,
        key=keys(config)["evaluation"],
        **config_fields(config.evaluation),
    )


def make_stopping(config: RunConfig) -> Stopping:
    """Makes what ends the run of a `config` before its last step."""
    options = config_fields(config.stopping)
    is_early, keep = options.pop("early"), options.pop("keep")
    if is_early and keep == "last":
        raise ValueError(
            "`stopping.keep` must be 'best' or left out with `stopping.early`, which "
            "ends where the best has passed; got 'last'."
        )
    if not is_early:
        options["patience"] = None
    limits = {
        "seconds": options.pop("max_seconds"),
        "images": options.pop("max_images"),
    }
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    of_stopping = {"max_skipped_steps": options.pop("max_skipped_steps")}
    return Stopping(
        EarlyStopping(**options) if is_early or keep == "best" else None,
        Budget(**limits) if limits else None,
        **of_stopping,
    )


def make_checkpoints(config: RunConfig, folder: pathlib.Path) -> Checkpoints:
    """Makes what is saved of a run, and whether it goes on.

    **Arguments:**

    - `config`: Of the run.
    - `folder`: Of the checkpoints.
    """
    options = config_fields(config.checkpoints)
    resume = options.pop("resume")
    if resume.isdigit():
        resume = int(resume)
    elif resume in ("latest", "no"):
        resume = resume == "latest"
    else:
        raise ValueError(
            "`checkpoints.resume` must be 'latest', 'no' or the step of a checkpoint; "
            f"got {resume!r}."
        )
    return Checkpoints(folder, resume=resume, **options)
