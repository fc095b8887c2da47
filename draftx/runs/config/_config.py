"""The configuration of a run: everything that `draftx train` can be told.

Sections are made of the signatures of the objects that they configure.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, TYPE_CHECKING

import tyro

from ...episodes import Memory
from ...finetuning import (
    adamw,
    Checkpoints,
    EarlyStopping,
    Evaluation,
    Stopping,
    Updates,
)
from ...lora import DEFAULT_TARGETS
from ...pipeline import Sampling
from ._fields import ModelConfigField, ModelField, RevisionField, VariantField
from ._methods import METHODS
from ._signatures import section


_arg = tyro.conf.arg
if TYPE_CHECKING:

    class _Section:
        """Whose fields are those of signatures, and not known ahead."""

        __dataclass_fields__: ClassVar[dict[str, Any]]

        def __getattr__(self, name: str) -> Any: ...

    SamplingSection = _Section
    MemorySection = _Section
    MethodSection = _Section
    UpdatesSection = _Section
    OptimizerSection = _Section
    EvaluationSection = _Section
    StoppingSection = _Section
    CheckpointsSection = _Section
else:
    SamplingSection = section("SamplingSection", {"sampling": Sampling})
    MemorySection = section("MemorySection", {"memory": Memory})
    MethodSection = section(
        "MethodSection",
        METHODS,
        optional=True,
        more={
            "name": (
                Literal[tuple(METHODS)],
                "draft-lv",
                "How the adapter learns: by an estimate of the gradient, or in rounds "
                "(ddpo, reward-weighted, dpg). The options below are of those named in "
                "front of them.",
            )
        },
    )
    UpdatesSection = section("UpdatesSection", {"updates": Updates})
    OptimizerSection = section(
        "OptimizerSection",
        {"adamw": adamw},
        aliases={
            "learning_rate": "--learning-rate",
            "accumulation_steps": "--gradient-accumulation-steps",
            "max_gradient_norm": "--max-grad-norm",
            "weight_decay": "--adam-weight-decay",
            "warmup_steps": "--lr-warmup-steps",
        },
        more={
            "schedule": (
                Literal["constant", "square-root"],
                "constant",
                "How the learning rate goes on after the warm-up: as it is, or falling "
                "with the square root of the step, from step s0 squared on.",
            ),
            "s0": (float, 10.0, "Where the square root begins."),
            "warmup_steps": (int, 0, "Updates that the rate rises for, from 0."),
            "accumulation_steps": (
                int,
                1,
                "Steps whose gradients are joined to one update: as a batch so many "
                "times the size, in the memory of one.",
            ),
            "ema_decay": (
                float | None,
                None,
                "Of an average of the adapter over the updates, at least 0 and below "
                "1, such as 0.99: it is what is measured, drawn and kept. None: the "
                "adapter as it is.",
            ),
        },
    )
    EvaluationSection = section("EvaluationSection", {"evaluation": Evaluation})
    StoppingSection = section(
        "StoppingSection",
        {"stopping": Stopping, "early stopping": EarlyStopping},
        more={
            "early": (
                bool,
                False,
                "Ends training when only the training reward still rises, and keeps "
                "the best adapter by the held-out score.",
            ),
            "keep": (
                Literal["last", "best"] | None,
                None,
                "Which adapter the run leaves: the last, or the best by the held-out "
                "score of the evaluations. None: the best with `early`, else the last.",
            ),
            "max_seconds": (float | None, None, "Of training; None is no limit."),
            "max_images": (int | None, None, "Drawn in training; None is no limit."),
        },
    )
    CheckpointsSection = section(
        "CheckpointsSection",
        {"checkpoints": Checkpoints},
        leave_out=("resume",),
        more={
            "resume": (
                str,
                "latest",
                "'latest', the step of a checkpoint to go on from, or 'no' for a "
                "folder that must be new.",
            )
        },
        aliases={
            "every": "--checkpointing-steps",
            "total_limit": "--checkpoints-total-limit",
            "resume": "--resume-from-checkpoint",
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Trains the adapter of a text-to-image model on rewards.

    Without any option the embedded model learns to draw images that JPEG compresses
    well, in about two minutes on a CPU.
    """

    preset: Annotated[
        Literal["tiny", "small", "large"] | None,
        _arg(
            help="What everything else is by default: `tiny`, a few minutes of the "
            "embedded model; `small`, the paper's 2,000 steps of 4 images; `large`, "
            "its 10,000 of 16. None: tiny for the embedded model, else small."
        ),
    ] = None
    model: ModelField = "tiny"
    variant: VariantField = None
    revision: RevisionField = None
    model_config: ModelConfigField = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        _arg(help="Of the frozen model; the adapter is float32."),
    ] = "float32"
    output_dir: Annotated[
        str, _arg(help="The run's folder. A run that is there goes on.")
    ] = "outputs/run"
    seed: Annotated[int, _arg(help="Draws the adapter, the prompts and the noise.")] = 0
    reward: Annotated[
        tuple[str, ...],
        _arg(
            help="What is sought, each with its weight: pickscore=10 hpsv2=2, or one's "
            "own, file.py:function."
        ),
    ] = ("compressibility",)
    eval_reward: Annotated[
        tuple[str, ...],
        _arg(
            help="What is measured on held-out prompts, each with its weight in the "
            "score, which may be 0: compressibility sizes.py:kilobytes=0. None: what "
            "is sought."
        ),
    ] = ()
    prompts: Annotated[
        str,
        _arg(
            help="To train on: a .txt, .jsonl or .csv file, a template such as "
            "'a {animals}', 'hpdv2' or a part of it such as 'hpdv2:train', or "
            "'scenes', those of the embedded model. A model that sees an image, as "
            "tiny-sr does, has it of the column conditioning_image of a .jsonl file: "
            "paths of pictures, from the file's own folder."
        ),
    ] = "scenes"
    held_out_prompts: Annotated[
        str | None,
        _arg(
            aliases=("--validation-prompts",),
            help="To measure and to draw: another file or template. None: a part of "
            "the prompts, which is then not trained on.",
        ),
    ] = None
    held_out: Annotated[
        float, _arg(help="The part of the prompts that is kept, if it is to be.")
    ] = 0.1
    max_train_steps: Annotated[int, _arg(help="Training steps.")] = 44
    train_batch_size: Annotated[int, _arg(help="Images of a step.")] = 4
    rank: Annotated[int, _arg(help="Of the adapter.")] = 8
    alpha: Annotated[
        float | None, _arg(help="The update is scaled by alpha / rank. None: by 1.")
    ] = None
    targets: Annotated[
        tuple[str, ...],
        _arg(help="Layers that are adapted: groups, or ends of their names."),
    ] = DEFAULT_TARGETS
    init_lora: Annotated[
        str | None, _arg(help="A file of an adapter to begin with, instead of a new.")
    ] = None
    validation_prompt: Annotated[
        tuple[str, ...],
        _arg(help="What is drawn before, during and after; none: held-out prompts."),
    ] = ()
    num_validation_images: Annotated[
        int, _arg(help="How many held-out prompts are drawn, if none is given.")
    ] = 8
    validation_steps: Annotated[int, _arg(help="Draws after every so many steps.")] = 22
    lora_scales: Annotated[
        tuple[float, ...],
        _arg(
            help="At the end the adapter is measured and drawn at these scales, such "
            "as 0 0.5 1 1.5, as `scales.json` and `scales.png`; none: it is not."
        ),
    ] = ()
    mesh: Annotated[
        str | None,
        _arg(
            help="Devices, 'data=8' or 'data=4,model=2': a batch is divided over all "
            "of them, the frozen weights over those of 'model' too. None: a batch "
            "over all there are, each with a copy of the weights."
        ),
    ] = None
    distributed: Annotated[
        bool,
        _arg(
            help="Trains together with the same command on other hosts, in a folder "
            "that all of them see. Slurm, Open MPI, Kubernetes and Cloud TPU say which "
            "they are; elsewhere JAX_COORDINATOR_ADDRESS (of the first, host:port), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0) do."
        ),
    ] = False
    host_timeout: Annotated[
        int,
        _arg(help="Seconds until another host that does not answer ends the run."),
    ] = 300
    report_to: Annotated[
        tuple[str, ...],
        _arg(
            help="Trackers that are told of figures and samples besides: tensorboard, "
            "wandb, trackio. One that fails is left out, and stops nothing."
        ),
    ] = ()
    push_to_hub: Annotated[
        bool, _arg(help="Uploads adapter and card to the Hugging Face Hub at the end.")
    ] = False
    hub_model_id: Annotated[
        str | None,
        _arg(help="Where to, account/name. None: the folder's name, in one's account."),
    ] = None
    hub_private_repo: Annotated[
        bool, _arg(help="Whether a repository that is made there is private.")
    ] = False

    sampling: SamplingSection = SamplingSection()
    method: MethodSection = MethodSection()
    updates: UpdatesSection = UpdatesSection()
    optimizer: OptimizerSection = OptimizerSection()
    memory: MemorySection = MemorySection()
    evaluation: EvaluationSection = EvaluationSection()
    stopping: StoppingSection = StoppingSection()
    checkpoints: CheckpointsSection = CheckpointsSection()


def config_fields(section: Any) -> dict[str, Any]:
    """Lists the fields of a `section` as arguments of what it configures."""
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
