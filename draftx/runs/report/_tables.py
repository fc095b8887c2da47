"""The words and numbers of a report: figures, facts, configurations and differences."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._ticker import duration
from ...io import read_json
from ..config import config_table, differences, write_config
from ..folder import licence
from ._html import chip, none, number, table, words
from ._runs import column, figure_names, ReportedRun


def configuration_differences(runs: Sequence[ReportedRun]) -> str:
    """Lists the fields in which the configurations of runs are not the same.

    **Arguments:**

    - `runs`: Of the report.
    """
    tables = [config_table(run.saved.config) for run in runs]
    lines = [line for other in tables[1:] for line in differences(tables[0], other)]
    names = dict.fromkeys(line.partition(":")[0] for line in lines)
    if not names:
        return none("The configurations are the same.")
    rows = [(name, [_value(_find(one, name)) for one in tables]) for name in names]
    return table(["", *_chips(runs)], rows)


def summary(runs: Sequence[ReportedRun]) -> str:
    """Writes a card for each held-out figure: what it was before, and what it is.

    **Arguments:**

    - `runs`: Of the report.
    """
    names = figure_names([row for run in runs for row in run.evaluations])
    if not names:
        return none("Nothing was measured on held-out prompts yet.")
    cards = []
    for name in names:
        lines = "".join(
            _before_and_now(chip(i, run) if len(runs) > 1 else "", run, name)
            for i, run in enumerate(runs)
        )
        title = html.escape(words(name))
        cards.append(f'<div class="card"><h3>{title}</h3>{lines}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _before_and_now(title: str, run: ReportedRun, name: str) -> str:
    values = column(run.evaluations, name)
    if not np.isfinite(values).any():
        return f'<div class="pair">{title}<span class="from">not measured</span></div>'
    first, last = float(values[0]), float(values[-1])
    if len(values) == 1:
        before, change = (
            "",
            "before training" if run.evaluations[0]["step"] == 0 else "",
        )
    else:
        before = f'<span class="from">{number(first)} →</span>'
        change = number(last - first, "+.3g")
    return (
        f'<div class="pair">{title}<span>{before} <b>{number(last)}</b> '
        f'<span class="by">{change}</span></span></div>'
    )


def evaluations(runs: Sequence[ReportedRun]) -> str:
    """Lists all held-out figures of runs.

    **Arguments:**

    - `runs`: Of the report.
    """
    found = []
    for i, run in enumerate(runs):
        if not run.evaluations:
            continue
        names = figure_names(run.evaluations)
        if any("train_reward" in row for row in run.evaluations):
            names.append("train_reward")
        columns = [column(run.evaluations, name) for name in names]
        rows = [
            (str(row["step"]), [number(values[j]) for values in columns])
            for j, row in enumerate(run.evaluations)
        ]
        title = f"<h3>{chip(i, run)}</h3>" if len(runs) > 1 else ""
        head = ["steps", *(html.escape(words(name)) for name in names)]
        found.append(title + table(head, rows, kind="numbers"))
    return "".join(found) or none("Nothing was measured yet.")


def facts(runs: Sequence[ReportedRun]) -> str:
    """Lists what the model card of each run says, and what the run has cost.

    **Arguments:**

    - `runs`: Of the report.
    """
    found = [_model(run) | _cost(run) | _made_with(run) for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [(name, [one.get(name, "—") for one in found]) for name in names]
    return table(["", *_chips(runs)] if len(runs) > 1 else [], rows)


def configurations(runs: Sequence[ReportedRun]) -> str:
    """Writes the configuration of each run, as its file has it.

    **Arguments:**

    - `runs`: Of the report.
    """
    is_open = " open" * (len(runs) == 1)
    names = [chip(i, run) if len(runs) > 1 else "" for i, run in enumerate(runs)]
    return "".join(
        f"<details{is_open}><summary>{name} config.toml</summary>"
        f"<pre>{html.escape(write_config(run.saved.config))}</pre></details>"
        for name, run in zip(names, runs, strict=True)
    )


def _chips(runs: Sequence[ReportedRun]) -> list[str]:
    return [chip(i, run) for i, run in enumerate(runs)]


def _find(table: Mapping[str, Any], name: str) -> Any:
    """The value of a field by its name with those of the sections it is in."""
    found: Any = table
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _value(value: Any) -> str:
    if value is None:
        return "—"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _model(run: ReportedRun) -> dict[str, str]:
    config, folder = run.saved.config, run.saved.folder
    held_out = config.held_out_prompts
    if held_out is None:
        held_out = f"{config.held_out:.0%} of the prompts"
        if config.prompts == "scenes":
            held_out = "scenes of other animals"
    saved = run.saved
    is_last = saved.step in (None, run.steps)
    kept = "" if is_last else f", as it was after step {saved.step}"
    written = (
        f"{folder.lora.name}{kept}" if folder.lora.is_file() else "not written yet"
    )
    alpha = "" if config.alpha is None else f", alpha {config.alpha:g}"
    return {
        "base model": config.model,
        "its licence": licence(config.model),
        "method": config.method.name,
        "trained on": ", ".join(config.reward),
        "measured by": ", ".join(config.eval_reward or config.reward),
        "prompts": config.prompts,
        "held-out prompts": held_out,
        "steps": f"{run.steps} of {config.max_train_steps}",
        "images of a step": str(config.train_batch_size),
        "adapter": f"rank {config.rank}{alpha}",
        "its file": written,
        "checkpoints": ", ".join(map(str, run.saved.checkpoints)) or "none",
    }


def _cost(run: ReportedRun) -> dict[str, str]:
    last = run.saved.history[-1] if run.saved.history else {}
    names = ("images", "reward_queries", "unet_forwards", "unet_backwards", "skipped")
    names = [name for name in names if isinstance(last.get(name), int | float)]
    titles = {"images": "images drawn", "skipped": "steps skipped"}
    found = {titles.get(name, words(name)): f"{last[name]:,}" for name in names}
    if isinstance(last.get("seconds"), int | float):
        found["time of training"] = duration(last["seconds"])
    if run.saved.folder.result.is_file():
        stopped = read_json(run.saved.folder.result).get("stopped")
        if stopped is not None:
            # It may have gone on since.
            found["when it last ended"] = str(stopped)
    return found


def _made_with(run: ReportedRun) -> dict[str, str]:
    return {str(name): _value(value) for name, value in run.versions.items()}
