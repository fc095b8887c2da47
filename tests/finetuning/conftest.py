import jax.random as jr
import pytest


@pytest.fixture(scope="session")
def pipeline(short_pipeline):
    """With a fresh adapter, which changes nothing yet."""
    import draftx

    return draftx.add_lora(short_pipeline, rank=2, targets=["proj_out"], key=jr.key(0))


@pytest.fixture(scope="session")
def evaluation():
    from .short import held_out

    return held_out()


@pytest.fixture(scope="session")
def result(pipeline, evaluation):
    """Of a short training, evaluated three times."""
    from .short import finetune

    return finetune(pipeline, evaluation=evaluation)
