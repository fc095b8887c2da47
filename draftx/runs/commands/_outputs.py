"""What commands write: whether they may, and how large it is."""

import os
import pathlib


# What nobody calls a folder.
_FILES = (".safetensor", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".zip")


def check_new(output: pathlib.Path) -> None:
    """Raises before long work unless something new can be written.

    **Arguments:**

    - `output`: The file or folder to write.
    """
    if output.exists():
        raise ValueError(
            f"`output` must be new; {str(output)!r} exists. Choose another name, or "
            "delete it."
        )
    parents = output.resolve().parents
    folder = next(parent for parent in parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            "`output` must be in a folder that can be written to; "
            f"{str(folder)!r} is none."
        )


def check_new_model(output: pathlib.Path, argument: str, source: str) -> None:
    """Raises before long work unless a model can be written there.

    **Arguments:**

    - `output`: A folder, or a file that ends in .safetensors.
    - `argument`: What `source` is called in the error.
    - `source`: The model that it is made of.
    """
    model = pathlib.Path(source)
    if model.exists() and output.resolve().is_relative_to(model.resolve()):
        raise ValueError(
            f"`output` must be outside of `{argument}`, of which it would become a "
            f"part; got {str(output)!r} in {source!r}."
        )
    suffix = output.suffix.lower()
    if suffix in _FILES or (suffix == ".safetensors" and suffix != output.suffix):
        raise ValueError(
            "`output` must be a folder, or a file that ends in .safetensors; got "
            f"{str(output)!r}."
        )
    check_new(output)


def size_text(count: int) -> str:
    """Writes a size as people do, in powers of 1000 as the hub does.

    **Arguments:**

    - `count`: Of bytes.
    """
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
