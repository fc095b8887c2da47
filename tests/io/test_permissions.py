"""Who may read what is written: what the process's umask leaves, as for any file."""

import os
import stat

import pytest

import draftx
from draftx.io import formats

from .tiny import random_lora


pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_as_any_other(folder, umask):
    paths = [folder, *folder.rglob("*")]
    assert any(path.is_file() for path in paths)
    for path in paths:
        full = 0o777 if path.is_dir() else 0o666
        mode = stat.S_IMODE(path.stat().st_mode)
        assert oct(mode) == oct(full & ~umask), path


def test_an_adapter(pipeline, tmp_path, umask):
    draftx.save_lora(random_lora(pipeline, targets="to_q"), tmp_path / "new" / "lora")
    assert_as_any_other(tmp_path / "new", umask)


def test_a_pipeline_and_its_learned_inputs(pipeline, tmp_path, umask):
    draftx.save(pipeline, tmp_path / "new" / "model")
    sampling = draftx.Sampling(num_inference_steps=2)
    learned = draftx.add_learned_inputs(pipeline, sampling)
    draftx.save_learned_inputs(learned, tmp_path / "new" / "x.safetensors")
    assert_as_any_other(tmp_path / "new", umask)


def test_text_and_json(tmp_path, umask):
    with formats.new_folder(tmp_path / "new") as folder:
        formats.write_text(folder / "x.txt", "x")
        formats.write_json(folder / "in" / "x.json", {"x": 1})
    assert_as_any_other(tmp_path / "new", umask)


def test_a_file_that_is_replaced(pipeline, tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch(0o600)
    draftx.save_lora(random_lora(pipeline, targets="to_q"), path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
