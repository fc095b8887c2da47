"""A whole run: from a configuration to a folder with an adapter in it."""

import contextlib
import pathlib
import platform
import shlex
import sys
from importlib import metadata
from typing import Any

import jax

from ..._checks import check_whole
from ..._fingerprint import fingerprint
from ..._hosts import check_alike, is_first, on_each, on_first
from ..._version import __version__
from ...finetuning import (
    finetune,
    finetune_in_rounds,
    FinetuneResult,
    ProgressBar,
    settle,
)
from ...io import save_lora
from ...io.formats import write_json, write_text
from .._busy import Busy, say
from ..config import (
    check_numbers,
    check_pictures_of,
    config_table,
    keys,
    make_checkpoints,
    make_drawn,
    make_evaluation,
    make_memory,
    make_optimizer,
    make_pipeline,
    make_prompts,
    make_rewards,
    make_run_mesh,
    make_sampling,
    make_stopping,
    make_training_method,
    parse_rewards,
    ROUND_METHODS,
    RunConfig,
    write_config,
)
from ..folder import (
    adapter_metadata,
    curves,
    FolderLock,
    RunFolder,
    write_card,
    write_lines,
)
from ._callbacks import Begun, MetricsFile, Samples
from ._going_on import as_begun, check_unchanged, with_remat
from ._push import check_push, push_if_asked
from ._scales import measure_scales
from ._trackers import check_trackers, Tracker


def train(config: RunConfig) -> FinetuneResult:
    """Trains an adapter as a configuration says, and leaves it all in a folder.

    A run that is there already goes on where it was saved.

    **Arguments:**

    - `config`: Of the run.

    Raises a `ValueError` that names what is wrong before any long work, and a
    `RunInUseError` if another process works in the folder.
    """
    if not config.output_dir.strip() or "\0" in config.output_dir:
        raise ValueError(f"`output_dir` must name a folder; got {config.output_dir!r}.")
    # Keys are made of 32 bits.
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"`seed` must lie in [0, 2**32); got {config.seed}.")
    batch_size = check_whole("train_batch_size", config.train_batch_size)
    check_whole("max_train_steps", config.max_train_steps)
    check_numbers(config)
    folder = RunFolder(pathlib.Path(config.output_dir))
    # All that can be wrong without loading anything.
    options: dict[str, Any] = dict(
        sampling=make_sampling(config),
        method=make_training_method(config),
        memory=make_memory(config),
        optimizer=make_optimizer(config),
        stopping=make_stopping(config),
        checkpoints=make_checkpoints(config, folder.checkpoints),
    )
    options["method"].check_batch(batch_size)
    options["memory"].check(batch_size)
    on_first(lambda: _check_tellers(config))
    parse_rewards(config.reward, "reward")
    parse_rewards(config.eval_reward, "eval_reward", is_measured=True)
    make_run_mesh(config)
    prompts, held_out = on_each(lambda: make_prompts(config))
    alike = f"{write_config(config)}\n{fingerprint((prompts, held_out))}"
    check_alike("configuration and prompts", alike)
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(FolderLock(folder.path))
            check_unchanged(as_begun(config, folder), folder)

        on_first(enter)
        config = on_each(lambda: as_begun(config, folder))
        result = _train(config, folder, prompts, held_out, options)
        on_first(lambda: push_if_asked(config, folder, result))
        return result


def _train(
    config: RunConfig,
    folder: RunFolder,
    prompts: Any,
    held_out: Any,
    options: dict[str, Any],
) -> FinetuneResult:
    with Busy(f"loading {config.model}"):
        load = lambda: (make_rewards(config), make_pipeline(config))
        (reward, measured, weights), pipeline = on_each(load)
    # What only the model can say of the options; then something is written.
    drawn = make_drawn(config, held_out)
    given = {
        "prompts": (prompts, "prompts"),
        "held_out_prompts": (held_out, "held-out-prompts"),
        "validation_prompt": (drawn, "held-out-prompts"),
    }
    for name, (rows, flag) in given.items():
        check_pictures_of(pipeline, rows, options["sampling"], given=name, flag=flag)
    in_rounds = config.method.name in ROUND_METHODS
    total = options["sampling"].num_inference_steps
    options["memory"] = settle(
        make_memory(config),
        pipeline,
        options["sampling"],
        config.train_batch_size,
        steps=1 if in_rounds else options["method"].steps_at_once(total),
        tell=say if is_first() else lambda text: None,
    )
    config = with_remat(config, options["memory"].remat)

    def write() -> None:
        write_text(folder.config, write_config(config))
        write_json(folder.versions, _versions())

    on_first(write)
    bar = ProgressBar()
    of_keys = keys(config)
    samples = Samples(
        folder,
        drawn,
        options["sampling"],
        of_keys["drawing"],
        every=config.validation_steps,
        images_at_once=config.evaluation.batch_size,
        tell=bar.working,
    )
    is_drawn = lambda step: on_first(folder.samples(step).is_file)
    if not is_drawn(0):
        with Busy(f"drawing {len(drawn)} images before training", "images") as busy:
            samples.draw(pipeline, 0, busy.tell)
    metrics, trackers = [], []
    if is_first():
        metrics = [MetricsFile(folder, config.train_batch_size)]
        table = config_table(config)
        names = dict.fromkeys(config.report_to)
        trackers = [Tracker(name, folder, table, tell=bar.working) for name in names]
    evaluation = make_evaluation(config, held_out, measured, weights)
    run = finetune_in_rounds if in_rounds else finetune
    with Busy("checking what is to be trained") as checking:
        result = run(
            pipeline,
            reward,
            prompts,
            key=of_keys["training"],
            num_train_steps=config.max_train_steps,
            batch_size=config.train_batch_size,
            evaluation=evaluation,
            # Trackers look for the samples, and the bar lives as long as they do.
            callbacks=(Begun(checking), *metrics, samples, *trackers, bar),
            **options,
        )
    if result.step is not None and not is_drawn(result.step):
        what = f"drawing {len(drawn)} images with the adapter that is kept"
        with Busy(what, "images") as busy:
            samples.draw(result.pipeline, result.step, busy.tell)
    on_first(lambda: _write_results(config, folder, result))
    draw = lambda pipeline: samples.images(pipeline)
    measure_scales(config, folder, result, evaluation, drawn.prompts, draw)
    # A second time, for the scales.
    on_first(lambda: write_card(config, folder, result))
    return result


def _check_tellers(config: RunConfig) -> None:
    check_trackers(config.report_to)
    check_push(config)


def _write_results(
    config: RunConfig, folder: RunFolder, result: FinetuneResult
) -> None:
    write_lines(folder.evaluations, list(result.evaluations))
    about = adapter_metadata(config)
    save_lora(result.pipeline, folder.lora, metadata=about)
    save_lora(result.pipeline, folder.lora_kohya, format="kohya", metadata=about)
    is_best = result.step is not None
    ended = {
        "step": result.step if is_best else len(result.history),
        "steps": len(result.history),
        "kept": "best" if is_best else "last",
        "stopped": result.stopped,
        "sees_image": result.pipeline.conditioning_channels > 0,
    }
    write_json(folder.result, ended)
    title = f"{config.method.name}, {' '.join(config.reward)}"
    curves(folder.curves, result.history, result.evaluations, title=title)
    write_card(config, folder, result)


def _versions() -> dict[str, Any]:
    packages = ("jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "draftx": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "devices": [str(device) for device in jax.devices()],
        "command": shlex.join(["draftx", *sys.argv[1:]]),
    }


def summary(result: FinetuneResult) -> str:
    """Says in a few lines what a run has come to.

    **Arguments:**

    - `result`: Of the run.
    """
    if not result.evaluations:
        return ""
    first, last = result.evaluations[0], result.evaluations[-1]
    if last["step"] == 0 and result.history:
        return (
            f"the adapter is that after {len(result.history)} steps; held-out figures "
            "have not been measured since the beginning."
        )
    kept = []
    if result.step is not None:
        last = next(r for r in result.evaluations if r["step"] == result.step)
        kept = [
            f"kept: the adapter after step {result.step} of {len(result.history)}, the "
            "best by the held-out score"
        ]
    names = [n for n in last if n in first and n not in ("step", "train_reward")]
    lines = [f"held-out figures, before and after {last['step']} steps:"]
    lines += [f"  {n:>24}: {first[n]:10.4g} -> {last[n]:10.4g}" for n in names]
    return "\n".join(lines + kept)
