import jax.numpy as jnp
import numpy as np
import pytest

from draftx.finetuning import square_root_decay


def test_square_root_decay():
    schedule = square_root_decay(0.5, s0=3)
    rates = np.asarray([schedule(jnp.asarray(count)) for count in (0, 8, 35, 899)])
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.25, 0.05], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(schedule(8)), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("rate", "s0", "message"),
    [(1.0, 0, "`s0` must be"), (0.0, 10, "`learning_rate` must be")],
)
def test_bad_input_is_named(rate, s0, message):
    with pytest.raises(ValueError, match=message):
        square_root_decay(rate, s0=s0)
