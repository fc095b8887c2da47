"""Grids and curves of any words: what looks like a formula is none."""

import numpy as np
import pytest

from draftx.runs import captioned_grid
from draftx.runs.folder._panels import split_panels
from draftx.runs.folder._pictures import curves


def test_a_run_without_a_step_has_curves_too(tmp_path):
    curves(tmp_path / "curves.png", [], [], title="nothing yet")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "words", [r"cash $$ \o/ $_$", r"$\frac$", "a $5 fox, a $6 cow"]
)
def test_dollars_are_dollars(tmp_path, words):
    path = tmp_path / "grid.png"
    captioned_grid(path, {words: np.zeros((1, 8, 8, 3))}, [words], {words: [words]})
    (panel,) = split_panels(path.read_bytes())
    assert (panel.row, panel.caption) == (words, words)
    rows = [{"step": 0, "reward": 1.0, "reward_std": 0.5}]
    curves(tmp_path / "curves.png", rows, [], title=words)
    assert (tmp_path / "curves.png").stat().st_size > 1000
