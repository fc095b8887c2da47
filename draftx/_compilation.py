import os
import pathlib

import jax


def enable_compilation_cache(
    folder: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Keeps compiled programs on disk, so that the next process need not compile them.

    Call it before the first computation. Programs are found again if they, the version
    of JAX and the device are the same.

    **Arguments:**

    - `folder`: Made if it is not there. `None` is what the environment variable
        `JAX_COMPILATION_CACHE_DIR` says, or else `~/.cache/draftx/compiled`.

    **Returns:**

    The folder.
    """
    if folder is None:
        default = pathlib.Path.home() / ".cache" / "draftx" / "compiled"
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or default
    path = pathlib.Path(folder).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"`folder` must be a folder; {str(path)!r} is a file.")
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    # By default only what took long is kept; but many small programs take long too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # With what XLA measured of its kernels on a GPU.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "all")
    return path
