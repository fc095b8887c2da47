"""The model card of a run: what its adapter is, and what became of the rewards."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...finetuning import FinetuneResult
from ...io import EMBEDDED_MODELS, read_json
from ...io.formats import write_text
from ..config import RunConfig, write_config
from ._folder import read_scales, RunFolder, SavedRun


_LICENCES: Final = dict.fromkeys(EMBEDDED_MODELS, "apache-2.0") | {
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
}


def write_card(
    config: RunConfig, folder: RunFolder, result: FinetuneResult | SavedRun
) -> None:
    """Writes the model card of a run, `README.md`.

    **Arguments:**

    - `config`, `folder`, `result`: Of the run.
    """
    write_text(folder.card, card(config, folder, result))


def card(
    config: RunConfig, folder: RunFolder, result: FinetuneResult | SavedRun
) -> str:
    """Makes the text of a model card, with the header that hubs read.

    **Arguments:**

    - `config`, `folder`, `result`: Of the run.
    """
    step = result.step if result.step is not None else len(result.history)
    head = {
        "base_model": config.model,
        "library_name": "draftx",
        "license": licence(config.model),
        "tags": ["draftx", "lora", "text-to-image", "reward-fine-tuning"],
    }
    return "\n".join(
        [
            "---",
            *(_yaml(name, value) for name, value in head.items()),
            "---",
            "",
            f"# {folder.path.resolve().name}",
            "",
            f"A LoRA of rank {config.rank} for `{config.model}`, fine-tuned with "
            f"[draftx](https://arxiv.org/abs/2309.17400) by `{config.method.name}` on "
            f"{_rewards(config)}: {step} steps of {config.train_batch_size} images"
            f"{_kept(step, len(result.history))}.",
            "",
            *_pictures(folder, step),
            *_figures(result),
            *_at_scales(folder),
            "## Use",
            "",
            "```python",
            "import draftx",
            "",
            f"pipeline = draftx.load({_load_arguments(config)})",
            f"pipeline = draftx.load_lora(pipeline, {folder.lora.name!r})",
            *_sampling(_example(config), folder),
            "```",
            "",
            "In diffusers: `pipe.load_lora_weights(folder, "
            f"weight_name={folder.lora.name!r})`.",
            "",
            *_other_programs(folder),
            "## Made by",
            "",
            "```",
            shlex.join(["draftx", "train", "config.toml"]),
            "```",
            "",
            "with `config.toml`",
            "",
            "```toml",
            write_config(config).strip(),
            "```",
            "",
            "The licence of the base model holds for the adapter, and those of the "
            "rewards for what was learned from them.",
            "",
        ]
    )


def adapter_metadata(config: RunConfig) -> dict[str, str]:
    """Says what the header of an adapter's file does of the run it is from.

    **Arguments:**

    - `config`: Of the run.
    """
    return {
        "base_model": config.model,
        "license": licence(config.model),
        "method": config.method.name,
        "reward": " ".join(config.reward),
    }


def licence(model: str) -> str:
    """Finds the licence of a base `model`, as hubs name it; "other" is not known."""
    return _LICENCES.get(model, "other")


def _yaml(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{name}:\n" + "\n".join(f"- {item}" for item in value)
    return f"{name}: {value}"


def _rewards(config: RunConfig) -> str:
    return ", ".join(f"`{reward}`" for reward in config.reward)


def _example(config: RunConfig) -> str:
    if config.validation_prompt:
        return config.validation_prompt[0]
    return "a fox, flat style, on a plain teal background"


def _sampling(prompt: str, folder: RunFolder) -> list[str]:
    if not folder.result.is_file() or not read_json(folder.result).get("sees_image"):
        return [f"images = draftx.sample(pipeline, [{prompt!r}])"]
    return [
        "# One picture a row, [rows, height, width, 3] in [0, 1].",
        f'rows = {{"prompt": [{prompt!r}], "conditioning_image": pictures}}',
        "images = draftx.sample(pipeline, rows)",
    ]


def _kept(step: int, steps: int) -> str:
    return "" if step == steps else f", the best by the held-out score out of {steps}"


def _pictures(folder: RunFolder, steps: int) -> list[str]:
    lines = []
    picture = folder.samples(steps)
    if picture.is_file():
        place = picture.relative_to(folder.path).as_posix()
        lines += [f"![base and tuned, from the same noise]({place})", ""]
    lines += [f"![reward and held-out score]({folder.curves.name})", ""]
    return lines


def _other_programs(folder: RunFolder) -> list[str]:
    # Runs of earlier versions have none.
    if not folder.lora_kohya.is_file():
        return []
    line = f"In A1111 and ComfyUI: `{folder.lora_kohya.name}`, the same adapter."
    return [line, ""]


def _figures(result: FinetuneResult | SavedRun) -> list[str]:
    if not result.evaluations:
        return []
    names = [name for name in result.evaluations[0] if name != "step"]
    rows = [(str(row["step"]), row) for row in result.evaluations]
    return ["## On held-out prompts", "", *_table("steps", names, rows), ""]


def _at_scales(folder: RunFolder) -> list[str]:
    found = read_scales(folder)
    if found is None:
        return []
    names = [name for name in found.figures[0] if name != "lora_scale"]
    rows = [(f"{row['lora_scale']:g}", row) for row in found.figures]
    lines = ["## At other scales of the adapter", ""]
    if folder.scales_picture.is_file():
        lines += [f"![the same noise at each scale]({folder.scales_picture.name})", ""]
    lines += [*_table("scale", names, rows), ""]
    use = f"draftx.load_lora(pipeline, {folder.lora.name!r}, scale={found.best:g})"
    return [*lines, f"The best by the held-out score: `{use}`.", ""]


def _load_arguments(config: RunConfig) -> str:
    said = {"revision": config.revision, "variant": config.variant}
    said["config"] = config.model_config
    named = [f"{name}={value!r}" for name, value in said.items() if value is not None]
    return ", ".join([repr(config.model), *named])


def _table(
    head: str, names: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[str]:
    return [
        f"| {head} | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
        *(
            f"| {title} | "
            + " | ".join(f"{row.get(name, float('nan')):.4g}" for name in names)
            + " |"
            for title, row in rows
        ),
    ]
