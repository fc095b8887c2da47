"""Pictures of a report: what was drawn, by step, and before beside after."""

import base64
import html
from collections.abc import Sequence

from ._html import chip, none
from ._runs import ReportedRun, Samples


def gallery(runs: Sequence[ReportedRun]) -> str:
    """Shows what each run drew after some steps, with one slider for all of them.

    **Arguments:**

    - `runs`: Of the report. Where one has drawn nothing after a step, it shows what it
        drew last before.
    """
    drawn = [run for run in runs if run.samples]
    if not drawn:
        return none("Nothing was drawn yet.")
    steps = sorted({sample.step for run in drawn for sample in run.samples})
    end = len(steps) - 1
    listed = " ".join(map(str, steps))
    slider = (
        '<div class="slider"><button type="button" id="play" aria-label="play">'
        "▶\ufe0e</button>"
        f'<input type="range" id="step" min="0" max="{end}" value="{end}" '
        f'data-steps="{listed}" aria-label="training steps">'
        f'<output for="step">step {steps[-1]}</output></div>'
    )
    return slider + "".join(
        _of_run(run, chip(i, run) if len(runs) > 1 else "")
        for i, run in enumerate(runs)
        if run.samples
    )


def before_and_after(runs: Sequence[ReportedRun]) -> str:
    """Lays what the tuned model drew last over what the base model drew, with a slider.

    **Arguments:**

    - `runs`: Of the report.
    """
    pairs = "".join(
        _pairs(run, chip(i, run) if len(runs) > 1 else "")
        for i, run in enumerate(runs)
        if run.samples and run.samples[-1].step > 0
    )
    if not pairs:
        return none("Nothing was drawn after a step of training yet.")
    slider = (
        '<p class="hint">Left of the line: the base model. Right of it: the tuned one, '
        "as it was last. Move the line here or on a picture.</p>"
        '<div class="slider"><input type="range" id="wipe" min="0" max="100" '
        'value="50" aria-label="how much of before is shown"></div>'
    )
    return slider + pairs


def whole_picture(png: bytes, text: str) -> str:
    """Shows a picture as it is.

    **Arguments:**

    - `png`, `text`: The content of its file, and what it shows.
    """
    image = f'<img src="{_data(png)}" alt="{html.escape(text)}">'
    return f'<div class="tiles">{_tile(image, text, is_whole=True)}</div>'


def _of_run(run: ReportedRun, title: str) -> str:
    last = run.samples[-1]
    tiles = []
    for column, caption in enumerate(_captions(last)):
        text = html.escape(caption)
        images = "".join(
            f'<img src="{source}" alt="{text}, step {sample.step}" '
            f'data-step="{sample.step}"{" hidden" * (sample is not last)}>'
            for sample in run.samples
            if (source := _source(sample, column, caption)) is not None
        )
        tiles.append(_tile(images, caption, is_whole=not last.panels))
    heading = f'<h3>{title}<span class="at"></span></h3>' if title else ""
    return (
        f'<section class="run">{heading}<div class="tiles">{"".join(tiles)}</div>'
        "</section>"
    )


def _pairs(run: ReportedRun, title: str) -> str:
    first, last = run.samples[0], run.samples[-1]
    tiles = []
    for column, caption in enumerate(_captions(last)):
        after = _source(last, column, caption)
        base = _data(last.base[column].png if last.base else first.whole)
        text = html.escape(caption)
        images = (
            f'<img src="{base}" alt="{text}, before"><img class="after" src="{after}" '
            f'alt="{text}, after {last.step} steps"><i class="edge"></i>'
        )
        tiles.append(_tile(images, caption, is_whole=not last.panels))
    heading = f"<h3>{title}</h3>" if title else ""
    return (
        f'<section class="run">{heading}<div class="tiles wipes">{"".join(tiles)}'
        "</div></section>"
    )


def _captions(sample: Samples) -> list[str]:
    return [panel.caption for panel in sample.panels] or [""]


def _source(sample: Samples, column: int, caption: str) -> str | None:
    """The image of one prompt, or the whole picture.

    A run that is gone on with may draw other prompts than before: then there is none.
    """
    if not sample.panels:
        return _data(sample.whole)
    captions = _captions(sample)
    if column < len(captions) and captions[column] == caption:
        return _data(sample.panels[column].png)
    return None


def _tile(images: str, caption: str, *, is_whole: bool) -> str:
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    kind = "tile whole" if is_whole else "tile"
    return f'<figure class="{kind}"><div class="stack">{images}</div>{text}</figure>'


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
