"""Options that cannot be, as a user says them: named before a model is loaded, with
nothing written; and every number of a configuration, with every value that is none."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import typing

import pytest

from draftx.runs import main, read_config, RunConfig
from draftx.runs.config._config import config_fields


_METHOD = "--method.name"
_HUGE = str(10**30)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # More steps of the gradient than the chain has, or none.
        (
            (_METHOD, "draft", "--method.truncation-steps", "99"),
            "`truncation_steps` must lie in [1, ",
        ),
        ((_METHOD, "draft", "--method.truncation-steps", "0"), "With 0 nothing would"),
        ((_METHOD, "draft", "--method.truncation-steps", "-1"), "at least 1; got -1"),
        ((_METHOD, "alignprop", "--method.max-steps", "99"), "`max_steps` must"),
        (
            (_METHOD, "drtune", "--method.num-trained-steps", "99"),
            "`num_trained_steps`",
        ),
        ((_METHOD, "refl", "--method.max-steps", "99"), "`max_steps` must"),
        # Without the original step there would be none.
        (
            (
                *(_METHOD, "draft-lv", "--method.num-samples", "0"),
                *("--method.include-original", "False"),
            ),
            "`num_samples` must be a whole number of at least 1",
        ),
        ((_METHOD, "draft-lv", "--method.num-samples", "-1"), "`num_samples` must"),
        (("--sampling.num-inference-steps", "0"), "`num_inference_steps` must"),
        (("--lora-scales", "1", "0", "1"), "`lora_scales` must differ"),
        (
            ("--mesh", "data=100000"),
            "`train_batch_size` must be divisible by the number of ",
        ),
        (("--rank", "0"), "`rank` must be a whole number of at least 1; got 0."),
        (("--rank", "-3"), "`rank` must"),
        (("--alpha", "0"), "`alpha` must be finite and positive"),
        (("--train-batch-size", "0"), "`batch_size` must"),
        (("--sampling.height", "0"), "`height` must"),
        (("--sampling.width", "-8"), "`width` must"),
        (("--gradient-accumulation-steps", "0"), "`optimizer.accumulation_steps` must"),
        (("--gradient-accumulation-steps", "999"), "or there is no update; got 999"),
        (("--evaluation.batch-size", "0"), "`evaluation.batch_size` must"),
        (("--evaluation.num-samples", "0"), "`evaluation.num_samples` must"),
        (("--evaluation.every", "0"), "`evaluation.every` must"),
        (("--validation-steps", "0"), "`validation_steps` must"),
        (("--num-validation-images", "-1"), "`num_validation_images` must"),
        (("--memory.images-at-once", "0"), "`images_at_once` must"),
        (("--learning-rate", "0"), "`learning_rate` must be finite and positive"),
        (("--learning-rate", "1e400"), "`optimizer.learning_rate` must be finite"),
        (("--train-batch-size", _HUGE), "`train_batch_size` must be below 2**31"),
        (("--rank", _HUGE), "`rank` must be below 2**31"),
        (("--evaluation.every", _HUGE), "`evaluation.every` must be below 2**31"),
        (("--output-dir", "a\0b"), "`output_dir` must name a folder; got 'a\\x00b'"),
        (("--prompts", "a\0b.txt"), "`prompts` must be a file that can be read"),
        (("--prompts", "a" * 300 + ".txt"), "File name too long"),
    ],
)
def test_what_cannot_be_is_named_first(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A model that is not there: the error would be another if it was looked for.
    assert main(["train", "--preset", "tiny", "--model", "nowhere", *flags]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "nowhere" not in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rank", "100000"), "`rank` must be at most "),
        (("--model", "tiny", "--sampling.height", "12"), "`height` must"),
        (("--sampling.num-inference-steps", "1001"), "must lie in [1, 1000]"),
        (("--targets", "to_x"), "Did you mean"),
        (("--revision", "main"), "`revision` must be None unless"),
        (("--model-config", "v2"), "`config` must be None unless"),
    ],
)
def test_what_only_the_model_can_say(flags, message, model, tmp_path, capsys):
    flags = ["--preset", "tiny", "--model", str(model), *flags]
    assert main(["train", "--output-dir", str(tmp_path / "run"), *flags]) == 1
    assert message in capsys.readouterr().err
    # Nothing that binds the next try: that would be a checkpoint.
    left = {path.name for path in (tmp_path / "run").glob("*")}
    assert left <= {".lock", "config.toml", "versions.json"}


def _numbers(config, prefix=""):
    """The fields that are numbers, with their section."""
    hints = typing.get_type_hints(type(config))
    for name, value in config_fields(config).items():
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{name}.")
            continue
        kinds = {hints[name], *typing.get_args(hints[name])}
        is_list = typing.get_origin(hints[name]) is tuple
        if {int, float} & kinds and not is_list:
            yield f"{prefix}{name}", int in kinds


_FIELDS = dict(_numbers(RunConfig()))
_VALUES = ["nan", "inf", "-inf", '"3"', "true", "[1]", "{a = 1}"]


@pytest.mark.parametrize("field", _FIELDS)
def test_a_number_is_a_finite_number(field, tmp_path):
    section, _, name = field.rpartition(".")
    path = tmp_path / "run.toml"
    for value in [*_VALUES, *["1.5"] * _FIELDS[field]]:
        path.write_text((f"[{section}]\n" if section else "") + f"{name} = {value}\n")
        with pytest.raises(ValueError, match=f"`{field}` of .*run.toml' must be"):
            read_config(path)


def test_the_numbers_are_all_of_them():
    assert len(_FIELDS) > 35
    assert {"rank", "seed", "sampling.eta", "updates.minibatch_size"} <= _FIELDS.keys()


_UNEVEN = """
import jax, draftx
assert jax.device_count() == 4
pipeline = draftx.add_lora(draftx.load("tiny"), rank=2, key=jax.random.key(0))
reward = lambda images: images.mean((1, 2, 3))
try:
    draftx.finetune(
        pipeline, reward, ["a"], method=draftx.DRaFT(1), key=jax.random.key(0),
        num_train_steps=1, batch_size=6,
    )
except ValueError as error:
    print(error)
"""


def test_a_batch_that_devices_cannot_share_names_the_nearest():
    flag = "--xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", _UNEVEN],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert "divisible by the number of devices, 4; got 6. Use" in done.stdout, done
