"""Grids and curves of any words: what looks like a formula is none."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from draftx.runs import captioned_grid
from draftx.runs.folder._panels import split_panels
from draftx.runs.folder._pictures import curves


def test_a_run_without_a_step_has_curves_too(tmp_path):
    curves(tmp_path / "curves.png", [], [], title="nothing yet")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    # No font has all letters; warnings are errors here.
    "words",
    [r"cash $$ \o/ $_$", r"$\frac$", "a $5 fox, a $6 cow", "a fox \U0001f98a, 狐"],
)
def test_dollars_are_dollars(tmp_path, words):
    path = tmp_path / "grid.png"
    captioned_grid(path, {words: np.zeros((1, 8, 8, 3))}, [words], {words: [words]})
    (panel,) = split_panels(path.read_bytes())
    assert (panel.row, panel.caption) == (words, words)
    rows = [{"step": 0, "reward": 1.0, "reward_std": 0.5}]
    curves(tmp_path / "curves.png", rows, [], title=words)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_each_reward_of_a_sum_is_drawn_below_their_sum(tmp_path):
    path, heights = tmp_path / "curves.png", []
    row = {"step": 0, "reward": 1.0, "reward_std": 0.5}
    for names in ((), ("a",), ("a", r"$\frac$")):
        for name in names:
            row |= {f"reward/{name}": 2.0, f"reward_std/{name}": 0.1}
        # What a run gained only later has no points before.
        curves(path, [{"step": 0, "reward": 0.0, "reward_std": 0.0}, row], [], title="")
        with PIL.Image.open(path) as picture:
            heights.append(picture.height)
    # Of one reward alone the sum says enough.
    assert heights[0] == heights[1]
    assert heights[2] == heights[0] + 2 * 2 * 150


def test_drawing_leaves_the_backend_of_its_user_alone(tmp_path):
    code = "import matplotlib; matplotlib.use('svg'); from draftx.runs import *; "
    code += "from draftx.runs.folder import curves; import pathlib; "
    code += "curves(pathlib.Path('c.png'), [], [], title='x'); "
    code += "print(matplotlib.get_backend())"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.strip() == b"svg"
