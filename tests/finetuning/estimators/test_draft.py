import pytest

import draftx

from ...helpers import relative_error
from ...toys import TOTAL
from .family import assert_same, gradient


def test_full_k_is_draft():
    assert_same(gradient(draftx.DRaFT(TOTAL)), gradient(draftx.DRaFT()))


@pytest.mark.parametrize("method", [draftx.DRaFTLV, draftx.SingleRewardLV])
def test_lv_without_draws_is_draft_1(method):
    assert_same(gradient(method(num_samples=0)), gradient(draftx.DRaFT(1)))


@pytest.mark.parametrize("method", [draftx.DRaFTLV, draftx.SingleRewardLV])
def test_lv_sum_is_the_mean_times_the_number_of_draws(method):
    mean = gradient(method(num_samples=2))[1]
    total = gradient(method(num_samples=2, reduction="sum"))[1]
    assert relative_error(total, 3 * mean) < 1e-5


def test_lv_of_many_draws_without_the_original_is_their_expectation():
    # Two halves of many draws agree with each other better than two single draws.
    draws = lambda n, seed: gradient(
        draftx.DRaFTLV(num_samples=n, include_original=False), seed
    )[1]
    many = relative_error(draws(2000, 0), draws(2000, 1))
    assert many < 0.02
    assert relative_error(draws(1, 0), draws(2000, 1)) > 2 * many
