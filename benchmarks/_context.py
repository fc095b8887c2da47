import dataclasses
import json
import os
import pathlib
from typing import Any


@dataclasses.dataclass
class Context:
    """What a stage of `gpu_session.py` is told, and how it reports.

    - `small`: Whether sizes are to be for a CPU: a rehearsal, its figures mean nothing.
    - `work`: Folder of compiled programs, logs and traces.
    """

    small: bool
    work: pathlib.Path

    @property
    def model(self) -> str:
        return "small-shape" if self.small else "sd14-shape"

    @property
    def dtype(self) -> str:
        return "float32" if self.small else "bfloat16"

    @property
    def steps(self) -> int:
        return 4 if self.small else 50

    @property
    def batch(self) -> int:
        return 2 if self.small else 4

    @property
    def cache(self) -> pathlib.Path:
        return self.work / "cache"

    def save(self, result: dict[str, Any]) -> None:
        """Keeps a result, or a part of one: a stage may be ended at any time."""
        path = self.work / "result.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result))
        os.replace(part, path)
