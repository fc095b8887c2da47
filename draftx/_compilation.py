import functools as ft
import importlib.metadata
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ._checks import is_traced
from ._planned_memory import give_back_memory, planned_memory, PlannedMemory


_R = TypeVar("_R")
_Donate = Literal["none", "all-except-first"]

# Seconds of compiling that leave enough behind to be worth the time to give it back.
_LONG: Final = 1.0
# Where users give XLA options of their own.
_VARIABLES: Final = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# What the library's own programs are compiled with, by platform. Only versions of
# jaxlib that are known to have an option are given it: an unknown one is an error.
_TESTED: Final = ("0.10.", "0.11.")
_OPTIONS: Final[Mapping[str, Mapping[str, tuple[str | bool, tuple[str, ...]]]]] = {
    "cpu": {
        # Buffers that are not needed at once share their memory.
        "xla_cpu_scheduler_type": ("CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED", _TESTED),
        # Without barriers, which this pass takes away, what is to be computed again is
        # joined with what was computed before, and kept.
        "xla_disable_hlo_passes": ("cse_barrier_expander", _TESTED),
    },
    "gpu": {
        # Products that share an operand stay apart: slices of a merged one cost a copy.
        "xla_gpu_dot_merger_threshold_mb": ("0", _TESTED),
        # cuBLASLt adds the residual to a product; XLA's own kernels for products leave
        # that to one more.
        "xla_gpu_enable_triton_gemm": (False, _TESTED),
    },
    "tpu": {
        # One kernel works on as much of the fast memory, half of the default: two
        # thirds of the code, half of the compile time, seven percent more time a step.
        "xla_tpu_scoped_vmem_limit_kib": ("8192", _TESTED),
    },
}


def compiler_options(platform: str) -> dict[str, str | bool]:
    """Chooses what the programs of a platform are compiled with.

    What the environment variables `XLA_FLAGS` and, for a TPU, `LIBTPU_INIT_ARGS` say
    stays as it is.

    **Arguments:**

    - `platform`: Of a device: `"cpu"`, `"gpu"` or `"tpu"`.
    """
    version = importlib.metadata.version("jaxlib")
    given = " ".join(os.environ.get(name, "") for name in _VARIABLES)
    return {
        name: value
        for name, (value, versions) in _OPTIONS.get(platform, {}).items()
        if version.startswith(versions) and f"--{name}=" not in given
    }


class Program(Generic[_R]):
    """A function of the library that is compiled, by what suits the platform.

    JAX refuses options of the compiler inside of a user's own `jit` or `grad`: there
    it is compiled as all else is.
    """

    def __init__(self, fn: Callable[..., _R], donate: _Donate = "none"):
        """**Arguments:**

        - `fn`: Of arrays, and of what is static.
        - `donate`: As for `equinox.filter_jit`.
        """
        ft.update_wrapper(self, fn, updated=())
        self._jit: Callable[..., Any] = ft.partial(eqx.filter_jit, fn, donate=donate)
        self._by_platform: dict[str | None, Any] = {}

    def __call__(self, *args: Any) -> _R:
        return self._for(args)(*args)

    def lower(self, *args: Any) -> Any:
        """Lowers the program without running it; the next call need not do it again."""
        return self._for(args).lower(*args)

    def plan(self, *args: Any) -> PlannedMemory | None:
        """Compiles the program without running it, and reads how much memory it needs.

        The next call need not compile it again. Inside of a user's own `jit` it is
        `None`.
        """
        if _platform(args) is None:
            return None
        lowered, start = self.lower(*args), time.perf_counter()
        compiled = lowered.compile()
        if time.perf_counter() - start > _LONG:
            give_back_memory()
        return planned_memory(compiled)

    def _for(self, args: tuple[Any, ...]) -> Any:
        platform = _platform(args)
        if platform not in self._by_platform:
            options = compiler_options(platform) if platform else None
            self._by_platform[platform] = self._jit(compiler_options=options or None)
        return self._by_platform[platform]


def compiled(*, donate: _Donate = "none") -> Callable[[Callable[..., _R]], Program[_R]]:
    """Makes a `Program` of a function: a decorator.

    **Arguments:**

    - `donate`: As for `Program`.
    """
    return lambda fn: Program(fn, donate)


def _platform(tree: Any) -> str | None:
    """Where a program of these arguments will run; `None` while it is being traced."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    # Arrays that are known already may be all that is given while others are traced.
    if any(map(is_traced, [*arrays, jnp.zeros(())])):
        return None
    if arrays:
        return next(iter(arrays[0].devices())).platform
    return jax.default_backend()


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
