import numpy as np

import draftx

from .family import gradient


def test_refl_with_one_step_is_draft_1():
    refl, draft = gradient(draftx.ReFL(max_steps=1)), gradient(draftx.DRaFT(1))
    for actual, expected in zip(refl, draft, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
