"""Configurations: presets, files, flags, and every field that cannot be."""

import dataclasses
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import draftx
from draftx.finetuning.training import (
    as_optimizer,
    ascend,
    averaged,
    learning_rate,
)
from draftx.io.checkpoints import OrbaxStore
from draftx.runs import (
    differences,
    main,
    PRESETS,
    read_config,
    RunConfig,
    write_config,
)
from draftx.runs.config._config import config_fields
from draftx.runs.config._config_files import config_table
from draftx.runs.config._make import (
    make_checkpoints,
    make_memory,
    make_optimizer,
    make_prompts,
    make_rewards,
    make_sampling,
    make_stopping,
    make_training_method,
)
from draftx.runs.config._methods import METHODS
from draftx.runs.config._presets import default_config
from draftx.runs.config._signatures import describe, plain_parameters


def _read(tmp_path, text, *arguments):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return read_config(path, arguments)


def test_presets_are_those_of_the_paper_and_of_the_example():
    assert read_config(None) == PRESETS["tiny"]
    other = read_config(None, ["--model", "CompVis/stable-diffusion-v1-4"])
    assert other == dataclasses.replace(PRESETS["small"], model=other.model)
    small, large = PRESETS["small"], PRESETS["large"]
    numbers = lambda c: (c.max_train_steps, c.train_batch_size, c.rank, c.dtype)
    assert numbers(small) == (2000, 4, 8, "bfloat16")
    assert numbers(large) == (10_000, 16, 32, "bfloat16")
    rates = lambda c: (c.optimizer.learning_rate, c.optimizer.weight_decay)
    assert (rates(small), rates(large)) == ((4e-4, 0.1), (2e-4, 0.1))
    assert large.optimizer.schedule == "square-root"
    with pytest.raises(ValueError, match="`preset` must be one of tiny, small, large"):
        default_config("huge", "tiny")


def test_the_flags_go_above_the_file_and_the_file_above_the_preset(tmp_path):
    text = 'preset = "large"\nrank = 4\n[sampling]\nguidance-scale = 5\neta = 0.5\n'
    config = _read(tmp_path, text, "--sampling.eta", "1", "--seed=3")
    assert (config.train_batch_size, config.rank, config.seed) == (16, 4, 3)
    assert (config.sampling.guidance_scale, config.sampling.eta) == (5.0, 1.0)


def test_what_is_written_is_read_the_same(tmp_path):
    for preset in PRESETS.values():
        assert _read(tmp_path, write_config(preset)) == preset
    text = "\n".join(
        [
            'reward = ["clip=2", "a.py:f"]',
            "alpha = 3",
            'validation-prompt = "a fox"',
            "lora_scales = [0, 0.5]",
            '[method]\nname = "refl"\nmax-steps = 3',
            "[checkpoints]\ntotal_limit = 7",
        ]
    )
    config = _read(tmp_path, text)
    assert config.validation_prompt == ("a fox",)
    assert config.lora_scales == (0.0, 0.5)
    assert _read(tmp_path, write_config(config)) == config
    assert tomllib.loads(write_config(config)) == config_table(config)


@pytest.mark.parametrize(
    "flags",
    [
        ["--output-dir", "x", "--max-train-steps", "7", "--train-batch-size", "2"],
        ["--output_dir", "x", "--max_train_steps", "7", "--train_batch_size", "2"],
    ],
)
def test_names_that_people_type_without_looking(flags):
    flags = [*flags, "--learning-rate", "1e-3", "--rank", "2", "--seed", "1"]
    flags += ["--validation-prompt", "a", "b", "--resume_from_checkpoint", "latest"]
    flags += ["--gradient_accumulation_steps", "2", "--checkpoints-total-limit", "5"]
    flags += ["--checkpointing_steps", "9", "--lr_warmup_steps", "3"]
    flags += ["--report_to", "wandb"]
    config = read_config(None, flags)
    assert (config.output_dir, config.max_train_steps) == ("x", 7)
    assert (config.train_batch_size, config.rank, config.seed) == (2, 2, 1)
    assert config.validation_prompt == ("a", "b")
    optimizer, checkpoints = config.optimizer, config.checkpoints
    assert (optimizer.learning_rate, optimizer.accumulation_steps) == (1e-3, 2)
    assert (checkpoints.every, checkpoints.total_limit) == (9, 5)
    assert (optimizer.warmup_steps, checkpoints.resume) == (3, "latest")
    assert config.report_to == ("wandb",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnk = 3", "`rnk` of .*run.toml' must be a field.*Did you mean 'rank'?"),
        ("[sampling]\nguidance_scal = 3", "Did you mean 'sampling.guidance_scale'?"),
        ('seed = "a"', "`seed` of .* must be a whole number; got 'a'"),
        ("seed = true", "must be a whole number; got True"),
        ("held_out = nan", "`held_out` of .* must be a finite number; got nan"),
        ("[sampling]\neta = inf", "`sampling.eta` of .* must be a finite number"),
        ("sampling = 3", r"must be a table, \[sampling\]; got 3"),
        ("reward = [3]", "`reward` of .* must be a list of texts"),
        ("lora-scales = [1, true]", "`lora-scales` of .* a list of finite numbers"),
        ("lora-scales = [nan]", "must be a list of finite numbers; got .nan"),
        (
            '[method]\nname = "x"',
            "`method.name` of .* must be one of 'draft', 'dr",
        ),
        ('dtype = "int8"', "one of 'float32', 'bfloat16', 'float16'"),
        ("rank = 3\nrank = 4", "must be TOML; .*run.toml' is not"),
        ('preset = "huge"', "`preset` must be one of"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        _read(tmp_path, text)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="none.toml': No such file"):
        read_config(tmp_path / "none.toml")
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="bytes.toml' is not"):
        read_config(path)


@pytest.mark.parametrize("flags", [["--rnk", "3"], ["--rank", "x"], ["--rank"]])
def test_flags_that_are_none_end_the_program(flags, capsys):
    with pytest.raises(SystemExit) as error:
        read_config(None, flags)
    assert error.value.code == 2
    assert "--r" in capsys.readouterr().err


def test_a_configuration_after_the_flags_is_told_to_come_first(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["train", "--output-dir", str(tmp_path), "my.toml"])
    assert error.value.code == 2
    assert "comes first: `draftx train my.toml ...`" in capsys.readouterr().err


def test_flags_must_be_finite():
    with pytest.raises(ValueError, match="`optimizer.weight_decay` must be finite"):
        read_config(None, ["--optimizer.weight-decay", "nan"])
    with pytest.raises(ValueError, match="`lora_scales` must be finite; got inf"):
        read_config(None, ["--lora-scales", "0", "inf"])


def test_differences_name_the_fields():
    one, other = (
        config_table(c) for c in (PRESETS["tiny"], read_config(None, ["--rank", "3"]))
    )
    assert differences(one, other) == ["rank: was 8, is 3"]
    assert differences(one, one) == []


def test_every_option_of_every_object_has_a_field_with_help():
    """A new option of an object is one of the configuration, without another line."""
    sections = {
        "sampling": draftx.Sampling,
        "memory": draftx.Memory,
        "optimizer": draftx.adamw,
        "evaluation": draftx.Evaluation,
        "stopping": draftx.EarlyStopping,
        "checkpoints": draftx.Checkpoints,
        "updates": draftx.Updates,
    }
    config = RunConfig()
    for name, function in sections.items():
        fields = config_fields(getattr(config, name))
        for parameter, _, default in plain_parameters(function):
            assert parameter in fields
            assert describe(function)[parameter]
            if parameter != "resume":
                assert fields[parameter] == default
    for estimator in METHODS.values():
        names = {parameter for parameter, *_ in plain_parameters(estimator)}
        assert names <= config_fields(config.method).keys()


def test_objects_are_those_that_the_configuration_says(tmp_path):
    config = _read(
        tmp_path,
        """
        [sampling]
        num_inference_steps = 7
        height = 128
        [memory]
        remat = "block"
        [method]
        name = "alignprop"
        max_steps = 3
        [stopping]
        early = true
        patience = 9
        max_images = 40
        [checkpoints]
        resume = "12"
        permanent_every = 5
        """,
    )
    assert make_sampling(config) == draftx.Sampling(7, 4.0, height=128)
    assert make_memory(config) == draftx.Memory("block")
    assert make_training_method(config) == draftx.AlignProp(max_steps=3)
    flags = ["--method.name", "ddpo", "--method.clip-range", "0.5"]
    config_of_rounds = read_config(None, [*flags, "--updates.minibatch-size", "2"])
    assert make_training_method(config_of_rounds) == draftx.DDPO(
        clip_range=0.5, updates=draftx.Updates(minibatch_size=2)
    )
    with pytest.raises(ValueError, match="`updates` must be left out for 'draft-lv'"):
        make_training_method(read_config(None, ["--updates.minibatch-size", "2"]))
    stopping = make_stopping(config)
    assert stopping.early_stopping == draftx.EarlyStopping(patience=9)
    assert make_stopping(read_config(None)).early_stopping is None
    best = read_config(None, ["--stopping.keep", "best", "--stopping.min-delta", "1"])
    expected = draftx.EarlyStopping(patience=None, min_delta=1.0)
    assert make_stopping(best).early_stopping == expected
    both = ["--stopping.early", "--stopping.keep", "last"]
    with pytest.raises(ValueError, match="`stopping.keep` must be 'best' or left out"):
        make_stopping(read_config(None, both))
    assert stopping.max_budget == draftx.Budget(images=40)
    checkpoints = make_checkpoints(config, tmp_path)
    assert (checkpoints.resume, checkpoints.permanent_every) == (12, 5)
    with pytest.raises(ValueError, match="`method.truncation_steps` must be left out"):
        make_training_method(read_config(None, ["--method.truncation-steps", "2"]))
    with pytest.raises(ValueError, match="`checkpoints.resume` must be 'latest'"):
        make_checkpoints(read_config(None, ["--checkpoints.resume", "x"]), tmp_path)


def test_the_store_of_checkpoints_is_an_option(tmp_path, capsys):
    config = read_config(None, ["--checkpoints.store", "orbax"])
    assert config_fields(config.checkpoints)["store"] == "orbax"
    again = _read(tmp_path, "[checkpoints]\nstore = 'orbax'")
    assert again.checkpoints == config.checkpoints
    assert make_checkpoints(RunConfig(), tmp_path).store == "safetensors"
    with pytest.raises(SystemExit):
        read_config(None, ["--checkpoints.store", "tar"])
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.oracle
def test_the_store_of_the_configuration_is_used(tmp_path):
    config = read_config(None, ["--checkpoints.store", "orbax"])
    assert type(make_checkpoints(config, tmp_path).open()) is OrbaxStore


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [4e-4] * 6),
        (["--lr-warmup-steps", "4"], [0, 1e-4, 2e-4, 3e-4, 4e-4, 4e-4]),
        (
            ["--optimizer.schedule", "square-root", "--optimizer.s0", "2"],
            [4e-4] * 4 + [4e-4 * 2 / 5**0.5, 4e-4 * 2 / 6**0.5],
        ),
    ],
)
def test_rates(flags, expected):
    optimizer = make_optimizer(read_config(None, flags))
    params, rates = jnp.ones(3), []
    state = optimizer.init(params)
    for _ in expected:
        with jax.numpy_dtype_promotion("standard"):
            _, state = optimizer.update(params, state, params)
        rates.append(learning_rate(state))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_gradients_are_accumulated():
    optimizer = make_optimizer(
        read_config(None, ["--gradient-accumulation-steps", "3"])
    )
    assert isinstance(optimizer, optax.MultiSteps)


@pytest.mark.parametrize("flags", [(), ("--gradient-accumulation-steps", "2")])
def test_the_average_is_asked_for(flags):
    flags = [*flags, "--optimizer.ema-decay", "0.25", "--learning-rate", "0.1"]
    optimizer = as_optimizer(make_optimizer(read_config(None, flags)))
    params = jnp.ones(3)
    state, seen, step = optimizer.init(params), [], jax.jit(ascend, static_argnums=0)
    for i in range(4):
        gradient = jnp.asarray([1.0, -2.0, i])
        params, state = step(optimizer, gradient, state, params, jnp.asarray(True))
        if not flags[0].startswith("--gradient") or i % 2:
            seen.append(np.asarray(params))
    average = seen[0]
    for decay, after in zip((2 / 11, 0.25, 0.25), seen[1:], strict=False):
        average = decay * average + (1 - decay) * after
    np.testing.assert_allclose(averaged(state, params), average, rtol=1e-6)
    with pytest.raises(ValueError, match="`decay` must"):
        make_optimizer(read_config(None, ["--optimizer.ema-decay", "1"]))


def test_prompts_and_rewards_of_a_run(tmp_path):
    train, held_out = make_prompts(read_config(None))
    assert (len(train), len(held_out)) == (3600, 45)
    train, held_out = make_prompts(read_config(None, ["--prompts", "a {animals}"]))
    assert len(train) + len(held_out) == 45
    other = tmp_path / "other.txt"
    other.write_text("a fox\n")
    flags = ["--prompts", "a {animals}", "--held-out-prompts", str(other)]
    train, held_out = make_prompts(read_config(None, flags))
    assert (len(train), held_out.prompts) == (45, ["a fox"])
    images = jnp.linspace(0, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    flags = ["--reward", "compressibility=2", "--eval-reward", "incompressibility"]
    reward, measured, weights = make_rewards(read_config(None, flags))
    assert list(measured) == ["incompressibility"]
    assert weights == {"incompressibility": 1.0}
    score = draftx.rewards.JPEGCompressibility()(images)
    features = reward.prepare(["a", "b"])
    np.testing.assert_allclose(reward(images, features), 2 * score, rtol=1e-6)
    assert reward.names == ("compressibility",)
