"""The searches of the tests of interruptions, and one of them in a process of its own.

Run as `python -m tests.search.searcher NAME FOLDER`, which writes `found.npz` there. A
step takes long enough to be killed in it.
"""

import pathlib
import sys
import time

import jax
import jax.random as jr
import numpy as np

import draftx
from draftx import search
from draftx.io.checkpoints import CheckpointStore

from ..io.tiny import random_pipeline, write_tokenizer
from ..toys import toy_reward


# Of the programs of the other tests, where they can be: they are compiled once.
SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=2.0)
_RANDOM = draftx.Sampling(num_inference_steps=5, guidance_scale=2.0, eta=1.0)
# Four steps each.
CALLS = {
    "best_of_n": (search.best_of_n, dict(sampling=SAMPLING, n=4)),
    "doodl": (
        search.doodl,
        dict(sampling=SAMPLING, num_steps=4, learning_rate=0.1),
    ),
    "dps": (
        search.dps,
        dict(sampling=draftx.Sampling(4, guidance_scale=2.0, eta=1.0), scale=0.5),
    ),
    "smc": (
        search.smc,
        dict(sampling=_RANDOM, num_particles=3, temperature=0.01),
    ),
    "svdd": (
        search.svdd,
        dict(sampling=_RANDOM, num_candidates=2, temperature=0.1),
    ),
    "prompt_engineering": (
        search.prompt_engineering,
        dict(sampling=SAMPLING, templates=["{}", "do {}", "{} cat", "{} do"]),
    ),
}


def fields(result):
    """What a search found, as arrays by name; seconds excepted."""
    names = ("images", "rewards", "latents", "clean_latents", "history")
    arrays = {name: np.asarray(getattr(result, name)) for name in names}
    spent = result.budget.as_dict()
    return arrays | {n: np.asarray(x) for n, x in spent.items() if n != "seconds"}


def _slow_reward(images):
    jax.debug.callback(lambda: time.sleep(0.3))
    return toy_reward(images)


class Stop(Exception):
    pass


def dies_at(step):
    """A store whose process ends before it writes the checkpoint of a step."""

    def make(folder, **limits):
        store = CheckpointStore(folder, **limits)
        save = store.save

        def dying(number, arrays, notes):
            if number == step:
                raise Stop
            return save(number, arrays, notes)

        store.save = dying
        return store

    return make


if __name__ == "__main__":
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    call, options = CALLS[name]
    result = call(
        random_pipeline(write_tokenizer(folder / "tokenizer"), short=True),
        _slow_reward,
        ["cat", "do"],
        key=jr.key(5),
        checkpoints=draftx.Checkpoints(folder / "checkpoints", every=1),
        **options,
    )
    np.savez(folder / "found.npz", **fields(result))
