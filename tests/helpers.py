"""Comparison of trees, with one table of tolerances for all tests."""

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np


# One table, so that nobody loosens a tolerance inside a test.
TOLERANCE = {
    jnp.dtype(jnp.float32): dict(rtol=2e-5, atol=2e-5),
    jnp.dtype(jnp.bfloat16): dict(rtol=2e-2, atol=2e-2),
    jnp.dtype(jnp.float64): dict(rtol=1e-9, atol=1e-9),
}


def assert_close(actual, expected, *, scale=1.0):
    """Same tree, shapes and dtypes; values close in the dtype's own tolerance."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, e in leaves:
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        tol = {k: v * scale for k, v in TOLERANCE[jnp.dtype(e.dtype)].items()}
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), **tol
        )


def operations(jaxpr, scope=""):
    """The operations of a traced program, each with the scopes that it is in."""
    for equation in jaxpr.eqns:
        within = f"{scope}/{equation.source_info.name_stack}"
        yield within, equation.primitive.name
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from operations(inner, within)


def relative_error(actual, expected) -> float:
    """Euclidean norm of the difference over the norm of `expected`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
