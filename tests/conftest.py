"""Strict promotion for every test, and keys that are fresh but the same each run."""

import jax
import jax.random as jr
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey():
    """A fresh key per call, deterministic per test."""
    keys = iter(range(1_000_000))
    return lambda: jr.fold_in(jr.key(0), next(keys))
