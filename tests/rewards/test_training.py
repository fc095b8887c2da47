"""Every reward on the embedded model, for three steps."""

import jax
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.rewards import Normalized, WeightedSum

from . import thin


@pytest.mark.slow
def test_three_steps_of_all_rewards_at_once():
    """Their sum: one program, in which each gives its scores and its gradient."""
    pipeline = draftx.load("tiny")
    pipeline = draftx.add_lora(pipeline, rank=2, key=jr.key(0))
    # References have another size than the model's images.
    names = [name for name in thin.NAMES if name != "lpips"]
    rewards = [Normalized(thin.case(name).reward) for name in names]
    result = draftx.finetune(
        pipeline,
        WeightedSum(rewards, [0.1] * len(rewards)),
        thin.PROMPTS,
        draftx.Sampling(num_inference_steps=2),
        method=draftx.DRaFTLV(num_samples=1),
        key=jr.key(1),
        num_train_steps=3,
        batch_size=2,
        optimizer=draftx.adamw(1e-3),
        callbacks=(),
    )
    assert len(result.history) == 3
    assert all(np.isfinite(row["reward"]) for row in result.history)
    assert all(row["gradient_norm"] > 0 for row in result.history)
    moved = draftx.lora_state_dict(result.pipeline)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(moved))
