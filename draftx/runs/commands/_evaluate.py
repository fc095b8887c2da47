"""`draftx evaluate`: figures of a base model and of its adapter, at several scales."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TYPE_CHECKING

import tyro

from ..._devices import split_cpu
from ...finetuning import Evaluation, sweep_lora_scale
from ...io.formats import write_json
from ...pipeline import Pipeline
from .._busy import Busy
from ..config import (
    check_pictures_of,
    config_fields,
    EvaluationSection,
    make_evaluation,
    make_prompts,
    make_rewards,
    make_sampling,
    parse_rewards,
    read_prompts,
    RunConfig,
    section,
)
from ._options import AbstractModelOptions, load_model, parse_with_run


_arg = tyro.conf.arg
if TYPE_CHECKING:
    MeasuringSection = EvaluationSection
else:
    # Of a training is only how often it is done.
    MeasuringSection = section(
        "MeasuringSection", {"evaluation": Evaluation}, leave_out=("every",)
    )
_NAMES = {0.0: "base", 1.0: "tuned"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(AbstractModelOptions):
    """Measures a model and its adapter on prompts that nothing was trained on.

    With the folder of a run these are its held-out prompts, its noise and its rewards.
    """

    reward: Annotated[
        tuple[str, ...],
        _arg(
            help="What is measured, each with its weight in the score: pickscore=10 "
            "hpsv2=2, or one's own, file.py:function."
        ),
    ] = RunConfig.reward
    prompts: Annotated[
        str | None,
        _arg(
            help="A .txt, .jsonl or .csv file, or a template, 'a {animals}'. None: the "
            "held-out ones of the run, or of the embedded model."
        ),
    ] = None
    lora_scale: Annotated[
        tuple[float, ...],
        _arg(
            help="The scales of the adapter that are measured: 0 is the base model, 1 "
            "the tuned one."
        ),
    ] = (0.0, 1.0)
    min_diversity: Annotated[
        float,
        _arg(
            help="Scales with a diversity below this part of the base model's are not "
            "called the best."
        ),
    ] = 0.0
    output_file: Annotated[
        str | None,
        _arg(help="For the figures, as JSON. None: `evaluation.json` of the run."),
    ] = None

    evaluation: MeasuringSection = MeasuringSection()


def evaluate_command(arguments: Sequence[str]) -> int:
    """Runs `draftx evaluate`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options, config = parse_with_run(EvaluateOptions, arguments, "evaluate", _of_run)
    config = dataclasses.replace(
        config,
        reward=options.reward,
        eval_reward=(),
        evaluation=dataclasses.replace(
            config.evaluation, **config_fields(options.evaluation)
        ),
    )
    # What can be said without the model is said before it is loaded.
    parse_rewards(config.reward, "reward", is_measured=True)
    make_sampling(config)
    if options.prompts is None:
        _, prompts = make_prompts(config)
    else:
        prompts = read_prompts(options.prompts)
    split_cpu(config.train_batch_size)
    with Busy(f"loading {options.model}"):
        _, rewards, weights = make_rewards(config)
        evaluation = make_evaluation(config, prompts, rewards, weights)
        pipeline = load_model(options)
    check_pictures_of(
        pipeline, prompts, evaluation.sampling, given="prompts", flag="prompts"
    )
    count = len(prompts) * evaluation.num_samples
    scales = options.lora_scale if options.lora is not None else (0.0,)
    with Busy(f"drawing {count * len(scales)} images", "batches") as busy:
        found = measure(pipeline, scales, evaluation, options, busy.tell)
    print(table(found["figures"]))
    if len(scales) > 1:
        print(f"the best by the score: scale {found['best_lora_scale']:g}")
    path = _output(options)
    write_json(path, found)
    print(f"the figures are in {path}")
    return 0


def measure(
    pipeline: Pipeline,
    scales: Sequence[float],
    evaluation: Evaluation,
    options: EvaluateOptions,
    tell: Callable[[int, int], None],
) -> dict[str, Any]:
    """Computes the figures at all scales, and what they are of.

    **Arguments:**

    - `pipeline`: With an adapter, unless the options name none.
    - `scales`: Of the adapter.
    - `evaluation`: That measures.
    - `options`: Of the command.
    - `tell`: As for `sweep_lora_scale`.
    """
    about = {
        "model": options.model,
        "lora": options.lora,
        "rewards": list(options.reward),
        "prompts": len(evaluation.table),
        "num_samples": evaluation.num_samples,
        "seed": options.seed,
    }
    if options.lora is None:
        evaluation.check(pipeline)
        rows = [{"lora_scale": 0.0} | evaluation(pipeline, tell)]
        return about | {"best_lora_scale": None, "figures": rows}
    best, rows = sweep_lora_scale(
        pipeline, scales, evaluation, min_diversity=options.min_diversity, tell=tell
    )
    return about | {"best_lora_scale": best, "figures": rows}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes figures with a line for each, and a column for each scale.

    **Arguments:**

    - `rows`: From `sweep_lora_scale`.
    """
    names = [name for name in rows[0] if name != "lora_scale"]
    scales = [row["lora_scale"] for row in rows]
    heads = [_NAMES.get(scale, f"scale {scale:g}") for scale in scales]
    left = max(map(len, names))
    lines = [f"{'':<{left}}" + "".join(f" {head:>12}" for head in heads)]
    for name in names:
        values = "".join(f" {row[name]:>12.5g}" for row in rows)
        lines.append(f"{name:<{left}}{values}")
    return "\n".join(lines)


def _of_run(config: RunConfig) -> dict[str, Any]:
    """What is measured by default: as in the training of a configuration."""
    kept = dataclasses.fields(MeasuringSection)
    values = {field.name: getattr(config.evaluation, field.name) for field in kept}
    return {
        "reward": config.eval_reward or config.reward,
        "evaluation": MeasuringSection(**values),
    }


def _output(options: EvaluateOptions) -> pathlib.Path:
    if options.output_file is not None:
        return pathlib.Path(options.output_file)
    folder = "outputs" if options.run is None else options.run
    return pathlib.Path(folder) / "evaluation.json"
