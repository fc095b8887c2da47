import jax.random as jr
import pytest


@pytest.fixture(scope="session")
def pipeline(short_pipeline):
    """With a fresh adapter, which changes nothing yet."""
    import draftx

    targets = ["attn2.to_v"]
    return draftx.add_lora(short_pipeline, rank=2, targets=targets, key=jr.key(0))
