"""Weights that are on this machine already: in a package, in a cache, in draftx."""

import dataclasses
import importlib.util
import os
import pathlib

from ..formats import check_sha256, ModelFileError


@dataclasses.dataclass(frozen=True)
class PackageFile:
    """Names a file inside an installed package, which is not imported.

    **Arguments:**

    - `module`: The package's name in an `import`.
    - `path`: Of the file, below the package's folder.
    - `requirement`: What `pip install` takes.
    - `sha256`: Of the file.
    """

    module: str
    path: str
    requirement: str
    sha256: str

    @property
    def command(self) -> str:
        """Says what installs the package."""
        return f"pip install {self.requirement}"

    def find(self, what: str) -> pathlib.Path:
        """Finds the file, the published one; `what` needs it, for the error text."""
        spec = importlib.util.find_spec(self.module)
        folders = [] if spec is None else spec.submodule_search_locations or []
        for folder in folders:
            path = pathlib.Path(folder) / self.path
            if path.is_file():
                again = f"`{self.command} --force-reinstall` gets it again"
                check_sha256(path, self.sha256, again)
                return path
        raise ModelFileError(
            f"The file of {what} is in the package `{self.requirement}`, which is not "
            f"installed here. `{self.command}` gets it."
        )


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """Names a file of torchvision, where PyTorch keeps what it downloads.

    draftx does not download it.

    **Arguments:**

    - `url`: Of the file.
    - `sha256`: Of the file.
    """

    url: str
    sha256: str

    @property
    def path(self) -> pathlib.Path:
        """Says where PyTorch would keep it."""
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
        name = self.url.rsplit("/", 1)[-1]
        return pathlib.Path(home).expanduser() / "hub" / "checkpoints" / name

    @property
    def command(self) -> str:
        """Says what puts it there."""
        return f"curl -L --create-dirs -o {self.path} {self.url}"

    def find(self, what: str) -> pathlib.Path:
        """Finds the file, the published one; `what` needs it, for the error text."""
        if not self.path.is_file():
            raise ModelFileError(
                f"The file of {what} is not here; looked for {str(self.path)!r}. With "
                f"a connection, `{self.command}` gets it."
            )
        check_sha256(self.path, self.sha256, f"`{self.command}` gets it again")
        return self.path


@dataclasses.dataclass(frozen=True)
class EmbeddedFolder:
    """Names a folder of weights that comes with draftx.

    **Arguments:**

    - `name`: Of the folder in `weights/` of a clone; an installed draftx has it inside
        the package, with an underscore before the name.
    - `sha256`: Of its `model.safetensors`, if it has one.
    """

    name: str
    sha256: str | None = None

    def find(self, what: str) -> pathlib.Path:
        """Finds the folder; `what` needs it, for the error text."""
        package = pathlib.Path(__file__).parents[2]
        candidates = (package / f"_{self.name}", package.parent / "weights" / self.name)
        for folder in candidates:
            if folder.is_dir():
                if self.sha256 is not None:
                    weights = folder / "model.safetensors"
                    check_sha256(weights, self.sha256, "Install draftx again")
                return folder
        raise ModelFileError(
            f"{what[0].upper()}{what[1:]} is missing from this installation; looked in "
            f"{' and '.join(repr(str(folder)) for folder in candidates)}. Install "
            "draftx again."
        )
