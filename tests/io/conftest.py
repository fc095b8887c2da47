"""One random pipeline for all tests of the folder, and what `save` made of it."""

import shutil

import pytest

from draftx import save


@pytest.fixture(scope="session")
def pipeline(base_pipeline):
    return base_pipeline


@pytest.fixture(scope="session")
def saved(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(pipeline, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "model")
