"""Damaged folders of runs: which file and which line of it."""

import pytest

from draftx.io import ModelFileError
from draftx.runs import open_run, RunConfig, RunFolder, write_config


@pytest.mark.parametrize("name", ["metrics", "evaluations"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{broken", "it is no JSON"),
        (b"", "it is no JSON"),
        (b"\xff\x00", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[1]", "it is a list"),
        (b"3", "it is a int"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, name, line, problem):
    folder = RunFolder(tmp_path)
    folder.config.write_text(write_config(RunConfig()), "utf-8")
    path = getattr(folder, name)
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n{"st')
    with pytest.raises(ModelFileError, match=f"Line 2 of '.*{name}.jsonl' .*{problem}"):
        open_run(tmp_path)
    path.write_bytes(b'{"step": 0}\n{"step": 2}\n{"st')
    rows = [{"step": 0}, {"step": 2}]
    run = open_run(tmp_path)
    assert (run.history or run.evaluations) == rows
