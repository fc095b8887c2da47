"""Memory for a model of real size: that of the file, and little more."""

import filecmp
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from draftx.io.formats import write_tensors

from .real_size import Random


pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[2]


def _peak(*arguments):
    """The memory that a process of its own needs at most, in bytes."""
    # As users have it: the compiler of the tests is slower.
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tests.io.real_size", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"JAX_PLATFORMS": "cpu"}, stdout=-1, text=True
    )
    assert done.returncode == 0, done.stdout
    return int(done.stdout.split()[-1])


def _available_memory():
    text = pathlib.Path("/proc/meminfo").read_text()
    return int(text.partition("MemAvailable:")[2].split()[0]) * 1024


@pytest.fixture
def disk(tmp_path):
    """A folder with room for three models, which are deleted at once afterwards."""
    if not pathlib.Path("/proc/meminfo").exists():
        pytest.skip("asks Linux for the memory of a process")
    if shutil.disk_usage(tmp_path).free < 8e9:
        pytest.skip("needs 8 GB of disk")
    if _available_memory() < 5e9:
        pytest.skip("needs 5 GB of memory")
    yield tmp_path
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_loading_and_converting_need_the_memory_of_the_file(disk):
    file, folder, back = disk / "sd.safetensors", disk / "sd", disk / "back.safetensors"
    write_tensors(file, Random())
    size = file.stat().st_size
    assert size > 2.1e9
    imported = _peak("nothing")
    peaks = {
        "the file": _peak("load", file),
        "to a folder": _peak("convert", file, folder),
        "the folder": _peak("load", folder),
        "back to a file": _peak("convert", folder, back),
    }
    ratios = {name: (peak - imported) / size for name, peak in peaks.items()}
    print(ratios)
    assert all(0.9 < ratio < 1.3 for ratio in ratios.values()), ratios
    assert filecmp.cmp(file, back, shallow=False)
