"""Strict promotion for every test, and keys that are fresh but the same each run."""

import functools as ft
import gc
import importlib.metadata
import os
import pathlib


# A test runs its programs once or twice: time spent on optimizing them is lost. The
# older code generator compiles in a third less time; an unknown flag would be fatal.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        # Programs of tests are small, and each core has a worker: nothing to split.
        "--xla_cpu_parallel_codegen_split_count=1",
        *["--xla_cpu_use_fusion_emitters=false"]
        * importlib.metadata.version("jaxlib").startswith("0.10."),
    ]
)

import jax
import jax.random as jr
import jaxtyping
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Operations need not know the lines they are from: the compiler copies them often.
jax.config.update("jax_traceback_in_locations_limit", 0)

# JAX lowers each program in a context of its own, with all dialects loaded anew: for a
# small program most of the work. Those of a module share one.
_shared = hasattr(jax._src.interpreters.mlir, "make_ir_context")
if _shared:
    _new_context = ft.cache(jax._src.interpreters.mlir.make_ir_context)
    jax._src.interpreters.mlir.make_ir_context = _new_context


def pytest_collection_finish():
    """What is there before the first test stays: no collection looks at it again.

    Tracing makes many small objects, of which few are garbage: collections are rarer.
    """
    gc.set_threshold(2000, 20, 30)
    gc.collect()
    gc.freeze()


@pytest.fixture
def getkey():
    """A fresh key per call, deterministic per test."""
    keys = iter(range(1_000_000))
    return lambda: jr.fold_in(jr.key(0), next(keys))


# The library is imported when it is first needed: its types are to be checked by then.
@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """One of a few merges, as files of a folder say it."""
    from .io.tiny import write_tokenizer

    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def base_pipeline(tokenizer):
    """A random pipeline without an adapter."""
    from .io.tiny import random_pipeline

    return random_pipeline(tokenizer)


@pytest.fixture(scope="session")
def short_pipeline(tokenizer):
    """A random pipeline of the fewest blocks, for what compiles whole gradients."""
    from .io.tiny import random_pipeline

    return random_pipeline(tokenizer, short=True)


@pytest.fixture
def without_types():
    """The package as a user has it, whose types nobody checks: its own errors count."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
    """Forgets constants of lowered programs, and compiled programs if there are many.

    Each holds a few memory mappings, of which Linux gives a process 65,530: the
    compilation that asks for one more crashes.
    """
    yield
    if _shared:
        _new_context.cache_clear()
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 30_000:
        gc.unfreeze()
        jax.clear_caches()
    # What is kept, compiled programs above all, no collection looks at again.
    gc.collect()
    gc.freeze()
