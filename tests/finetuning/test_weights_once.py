"""The weights of a pipeline are in memory once: programs are given its own arrays."""

import pathlib
import subprocess
import sys
import tempfile

import equinox as eqx
import jax
import jax.random as jr
import pytest

import draftx
from draftx import search
from draftx._compilation import Program
from draftx.lora import lora_filter

from ..io.tiny import random_lora, random_pipeline, write_tokenizer
from ..toys import toy_reward


_ROOT = pathlib.Path(__file__).parents[2]
_PROMPTS = ["cat", "do"]
_SAMPLING = draftx.Sampling(num_inference_steps=2, guidance_scale=2.0, eta=1.0)


class _Seen(Exception):
    """What stands in for a program, which need not be compiled."""


def _train(pipeline, run, method):
    run(
        pipeline,
        toy_reward,
        _PROMPTS,
        _SAMPLING,
        method=method,
        key=jr.key(0),
        num_train_steps=1,
        batch_size=2,
        callbacks=(),
    )


def _evaluate(pipeline):
    draftx.Evaluation(_PROMPTS, {"toy": toy_reward}, _SAMPLING)(pipeline)


_WORK = {
    "finetune": lambda p: _train(p, draftx.finetune, draftx.DRaFTLV()),
    "rounds": lambda p: _train(p, draftx.finetune_in_rounds, draftx.DDPO()),
    "reward_gradient": lambda p: draftx.reward_gradient(
        p, toy_reward, _PROMPTS, _SAMPLING, method=draftx.DRaFTLV()
    ),
    "evaluate": _evaluate,
    "sample": lambda p: draftx.sample(p, _PROMPTS, _SAMPLING),
    "search": lambda p: search.svdd(p, toy_reward, _PROMPTS, _SAMPLING),
}


def _given(name, pipeline):
    """What the first program that draws is given, all of it that is of a pipeline."""

    def stop(self, *args):
        # Texts are encoded as they are asked for.
        if self.__name__ == "_embed":
            return of_texts(self, *args)
        raise _Seen(args)

    of_texts = Program.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "__call__", stop)
        patch.setattr(Program, "plan", stop)
        with pytest.raises(_Seen) as seen:
            _WORK[name](pipeline)
    is_pipeline = lambda x: isinstance(x, draftx.Pipeline)
    nodes = jax.tree.leaves(seen.value.args, is_leaf=is_pipeline)
    given = [node for node in nodes if is_pipeline(node)]
    frozen = eqx.filter(given, lora_filter(given), inverse=True)
    return [leaf for leaf in jax.tree.leaves(frozen) if eqx.is_array(leaf)]


def _check(name, pipeline):
    known = {
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(eqx.filter(pipeline, eqx.is_array))
        for shard in leaf.addressable_shards
    }
    given = _given(name, pipeline)
    assert len(given) > 100
    pointers = [
        [shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards]
        for leaf in given
    ]
    # What was on one device is one of the copies that others then have.
    copied = sum(known.isdisjoint(of_leaf) for of_leaf in pointers)
    assert copied == 0, f"{copied} of {len(given)}"


def _pipeline(tokenizer):
    base = random_pipeline(tokenizer, short=True)
    return random_lora(base, scale=0.3, targets=("attn2.to_v",))


def main() -> None:
    """Trains on two devices, with weights that are on one of them or on both."""
    jax.config.update("jax_num_cpu_devices", 2)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = _pipeline(write_tokenizer(pathlib.Path(folder)))
    _check("finetune", pipeline)
    _check("finetune", draftx.shard(pipeline, "data=2"))


@pytest.mark.parametrize("name", _WORK)
def test_weights_are_not_copied(name, tokenizer):
    _check(name, _pipeline(tokenizer))


def test_each_of_two_devices_has_one_copy():
    code = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
    code += f"from {__name__} import main; main()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
