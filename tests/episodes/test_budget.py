import pytest

import draftx


def test_budgets_add_up_and_must_be_sound():
    one = draftx.Budget(images=1, unet_forwards=10)
    both = 3 * one + draftx.Budget(seconds=2.5)
    assert both == draftx.Budget(3, 0, 30, 0, 2.5)
    assert both.as_dict()["unet_forwards"] == 30
    with pytest.raises(ValueError, match="`images` must be finite and not negative"):
        draftx.Budget(images=-1)
