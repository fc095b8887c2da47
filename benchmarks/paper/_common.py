"""What the scripts of this folder share: a model, rows in a file, a verdict."""

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import draftx


ROOT = pathlib.Path(__file__).resolve().parents[2]
ANIMALS = ("cat", "dog", "bird", "fish", "horse", "frog", "rabbit", "bear")


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all the scripts have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="as for draftx.load")
    parser.add_argument("--full", action="store_true", help="Stable Diffusion 1.4")
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seeds", type=int, help="repetitions")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=ROOT / "outputs" / "paper" / name,
        help="folder of the rows and the figure; what is there is not computed again",
    )
    return parser


def load(args: argparse.Namespace) -> draftx.Pipeline:
    """The model that was asked for, without an adapter."""
    if args.full:
        args.model = "CompVis/stable-diffusion-v1-4"
    if args.num_inference_steps is None:
        args.num_inference_steps = 50 if args.full else 20
    draftx.split_cpu(args.batch)
    return draftx.load(args.model)


class Rows:
    """Figures of a script, a JSON line each, kept from one call to the next.

    A row is found again by the values of its key. A line that was cut off when the
    program was killed is dropped.
    """

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "rows.jsonl"
        self._settings = settings
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._rows = list(_complete(lines))
        self._path.write_text("".join(json.dumps(row) + "\n" for row in self._rows))

    def find(self, **key: Any) -> dict[str, Any] | None:
        wanted = self._settings | key
        for row in self._rows:
            if all(row.get(name) == value for name, value in wanted.items()):
                return row
        return None

    def get(self, **key: Any) -> dict[str, Any]:
        """A row that is there."""
        row = self.find(**key)
        if row is None:
            raise KeyError(key)
        return row

    def add(self, key: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
        row = self._settings | key | figures
        self._rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row


def _complete(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def verdict(folder: pathlib.Path, text: str) -> None:
    """Prints the one line that says whether a finding holds, and keeps it."""
    (folder / "verdict.txt").write_text(text + "\n")
    print(text)
