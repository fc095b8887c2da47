"""The folder of a run: where everything is, and how it is read again."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from ...io import ModelFileError, read_json
from ...io.checkpoints import saved_steps
from ...io.formats import write_json, write_text
from ..config import read_config, RunConfig


def check_output_dir(path: pathlib.Path) -> None:
    """Raises unless `path`, the option `output_dir`, is a folder or can become one."""
    path = path.absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        problem = "is a file"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = "cannot be written to"
    else:
        return
    raise ValueError(
        f"`output_dir` must be a folder, or the name of a new one; {str(there)!r} "
        f"{problem}. Choose another name."
    )


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names what a run leaves in its folder.

    - `path`: The folder.
    """

    path: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The resolved configuration, `config.toml`."""
        return self.path / "config.toml"

    @property
    def versions(self) -> pathlib.Path:
        """What the run was made with, `versions.json`."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> pathlib.Path:
        """A line for each step, `metrics.jsonl`."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> pathlib.Path:
        """A line for each evaluation, `evaluations.jsonl`."""
        return self.path / "evaluations.jsonl"

    @property
    def result(self) -> pathlib.Path:
        """How the run ended, and after which step its adapter is, `result.json`."""
        return self.path / "result.json"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of what a run goes on from, `checkpoints`."""
        return self.path / "checkpoints"

    @property
    def curves(self) -> pathlib.Path:
        """The picture `curves.png`."""
        return self.path / "curves.png"

    @property
    def lora(self) -> pathlib.Path:
        """The adapter, `lora.safetensors`."""
        return self.path / "lora.safetensors"

    @property
    def lora_kohya(self) -> pathlib.Path:
        """The same for A1111 and ComfyUI, `lora_kohya.safetensors`."""
        return self.path / "lora_kohya.safetensors"

    @property
    def scales(self) -> pathlib.Path:
        """What was measured at several scales of the adapter, `scales.json`."""
        return self.path / "scales.json"

    @property
    def scales_picture(self) -> pathlib.Path:
        """What was drawn at them, `scales.png`."""
        return self.path / "scales.png"

    @property
    def card(self) -> pathlib.Path:
        """What tells people about the adapter, `README.md`."""
        return self.path / "README.md"

    def samples(self, step: int) -> pathlib.Path:
        """Names the picture of what was drawn after `step` steps."""
        return self.path / "samples" / f"step-{step:08d}.png"


@dataclasses.dataclass(frozen=True)
class Scales:
    """Holds what an adapter gives at several scales.

    - `best`: The best by the held-out score.
    - `figures`: Those of each scale, its `lora_scale` among them.
    - `step`: After how many steps the adapter was as it was.
    """

    best: float
    figures: list[dict[str, Any]]
    step: int | None


def read_scales(folder: RunFolder) -> Scales | None:
    """Reads what was measured at several scales in a `folder`; `None` if nothing."""
    if not folder.scales.is_file():
        return None
    found = read_json(folder.scales)
    return Scales(found["best_lora_scale"], found["figures"], found["step"])


def write_scales(folder: RunFolder, scales: Scales) -> None:
    """Writes what was measured at several `scales` into a `folder`."""
    found = {"step": scales.step, "best_lora_scale": scales.best}
    write_json(folder.scales, {**found, "figures": scales.figures})


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """Holds what the folder of a run says.

    - `folder`: Names its files.
    - `config`: As it was resolved.
    - `history`: One row for each step.
    - `evaluations`: The figures of each evaluation.
    - `checkpoints`: The steps that have one.
    - `step`: After how many steps the adapter is as it is; `None` if none is written.
    - `scales`: The figures at each scale of the adapter, if they were measured, and
        the best of them.
    """

    folder: RunFolder
    config: RunConfig
    history: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    checkpoints: list[int]
    step: int | None = None
    scales: Scales | None = None


def open_run(folder: str | os.PathLike) -> SavedRun:
    """Reads the folder of a run, finished or not.

    **Arguments:**

    - `folder`: As `draftx train --output-dir` made it.

    Raises a [`draftx.io.ModelFileError`][] if it is none.
    """
    places = RunFolder(pathlib.Path(folder))
    if not places.config.is_file():
        raise ModelFileError(
            f"`folder` must be that of a run, with a config.toml; {str(folder)!r} has "
            "none."
        )
    checkpoints = sorted(sum(saved_steps(places.checkpoints).values(), []))
    step = None
    if places.result.is_file():
        step = read_json(places.result).get("step")
    return SavedRun(
        places,
        read_config(places.config),
        read_lines(places.metrics),
        read_lines(places.evaluations),
        checkpoints,
        step,
        read_scales(places),
    )


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a file of JSON lines; none is an empty one.

    **Arguments:**

    - `path`: Of the file. A last line that a kill cut off is left out; any other that
        is no JSON object is a [`draftx.io.ModelFileError`][].
    """
    if not path.is_file():
        return []
    # Not as text: a line that is no UTF-8 is named too.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_row(line, path, number) for number, line in enumerate(lines, 1)]


def _row(line: bytes, path: pathlib.Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        problem = f"it is no JSON: {e}"
    else:
        if isinstance(row, dict):
            return row
        problem = f"it is a {type(row).__name__}"
    raise ModelFileError(
        f"Line {number} of {str(path)!r} must be a JSON object; {problem}. The file is "
        "damaged: copy it again, or remove that line, and its row is missing."
    )


def write_lines(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes `rows` as JSON lines to `path`, whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_line(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a `row` to the JSON lines of `path`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
