"""What a tier of rematerialisation means, all of it in one table."""

import jax
import jax.numpy as jnp
import pytest

from draftx.layers import checkpoint_if, Remat


_MEANING = {
    "auto": {"steps", "scoring"},
    "none": set(),
    "ff": {"feed_forwards"},
    "block": {"transformers", "scoring"},
    "step": {"steps", "scoring"},
    "nested": {"steps", "transformers", "residual_blocks", "scoring"},
}
_PARTS = {"steps", "transformers", "residual_blocks", "feed_forwards", "scoring"}


@pytest.mark.parametrize("name", _MEANING)
def test_the_parts_that_a_tier_computes_again(name):
    assert {part for part in _PARTS if getattr(Remat(name), part)} == _MEANING[name]


def test_every_tier_is_in_the_table():
    assert {tier.value for tier in Remat} == _MEANING.keys()


def test_a_step_is_not_computed_twice():
    for tier in (Remat.STEP, Remat.AUTO):
        assert tier.within_step is Remat.NONE
        assert tier.where_largest is Remat.NESTED
    for tier in set(Remat) - {Remat.STEP, Remat.AUTO}:
        assert tier.within_step is tier.where_largest is tier


def test_unknown_tier_is_named():
    with pytest.raises(ValueError, match="`remat` .*'block', 'step', 'nested'; got 'a"):
        Remat("all")


@pytest.mark.parametrize("active", [True, False])
def test_checkpoint_if(active):
    call = checkpoint_if(active, jnp.sin)
    jaxpr = str(jax.make_jaxpr(jax.grad(call))(0.5))
    assert ("remat" in jaxpr or "checkpoint" in jaxpr) == active
