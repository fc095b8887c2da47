"""What a run that is said again takes over from the folder that is there."""

import dataclasses

import pytest

from draftx.runs import read_config, RunFolder, write_config
from draftx.runs.training._going_on import as_begun, check_unchanged, with_remat


@pytest.fixture
def folder(tmp_path):
    """Of a run that chose its tier and has a checkpoint."""
    folder = RunFolder(tmp_path)
    config = with_remat(read_config(None, []), "nested")
    folder.config.write_text(write_config(config))
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    return folder


def test_a_run_that_goes_on_keeps_its_tier(folder):
    said = read_config(None, [])
    assert said.memory.remat == "auto"
    assert as_begun(said, folder) == with_remat(said, "nested")
    check_unchanged(as_begun(said, folder), folder)
    # The file is a configuration that says the same.
    assert as_begun(read_config(folder.config, []), folder) == with_remat(
        said, "nested"
    )


def test_another_tier_is_a_change(folder):
    other = with_remat(read_config(None, []), "block")
    assert as_begun(other, folder) == other
    with pytest.raises(ValueError, match="remat"):
        check_unchanged(other, folder)


def test_without_a_checkpoint_it_is_chosen_again(folder):
    (folder.checkpoints / "step-00000001").rmdir()
    said = dataclasses.replace(read_config(None, []), seed=1)
    assert as_begun(said, folder) == said
    check_unchanged(said, folder)
