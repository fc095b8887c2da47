"""Folders of runs made by hand, as a training leaves them, and a parser of pages."""

import dataclasses
import html.parser
import json
import math

import numpy as np

from draftx.runs import captioned_grid, read_config, write_config
from draftx.runs.folder._folder import RunFolder, write_lines


EVIL = '<script>document.title = "broken"</script> & "a fox" $'
_VOID = ("meta", "img", "input", "br", "path")


def make_run(
    path, *, steps=12, of=12, flags=(), prompts=("a fox", EVIL), is_evaluated=True
):
    """A run that took some steps of so many, and drew before, halfway and last."""
    config = read_config(None, ["--max-train-steps", str(of), *flags])
    folder = RunFolder(path)
    folder.samples(0).parent.mkdir(parents=True)
    folder.config.write_text(write_config(config))
    rows = [_row(step, is_evaluated) for step in range(steps)]
    write_lines(folder.metrics, rows)
    if steps == of and is_evaluated:
        folder.versions.write_text(json.dumps({"draftx": "9.8.7", "devices": ["x"]}))
        rows = [_evaluation(0), _evaluation(steps) | {"train_reward": -5.5}]
        write_lines(folder.evaluations, rows)
    for step in sorted({0, steps // 2, steps}):
        # The base is green, and what is tuned becomes redder.
        base = np.tile(np.asarray([0.0, 1, 0]), (len(prompts), 16, 16, 1))
        tuned = np.tile(np.asarray([step / steps, 0, 0.5]), (len(prompts), 16, 16, 1))
        rows = {"base": base, f"step {step}": tuned}
        captioned_grid(folder.samples(step), rows, prompts)
    return folder


def _row(step, is_evaluated):
    reward = math.nan if step in (3, 4) else step - 20.0
    row = {
        "step": step,
        "reward": reward,
        "reward_std": 2.0 if math.isfinite(reward) else math.nan,
        "gradient_norm": math.inf if step == 3 else 1.5,
        "skipped": 0,
        "images": 4 * (step + 1),
        "seconds": 10.0 * (step + 1),
        "prompts": [1, 2],
        "images_per_second": None if step == 0 else 0.4,
    }
    if is_evaluated and step == 0:
        row |= _prefixed("before", _evaluation(0))
    if is_evaluated and step == 5:
        row |= _prefixed("held_out", _evaluation(6))
    return row


def _evaluation(step):
    return {"step": step, "score": step - 30.0, "red<b>ness": 0.25 + step / 100}


def _prefixed(prefix, figures):
    return {f"{prefix}/{name}": x for name, x in figures.items() if name != "step"}


@dataclasses.dataclass
class Page:
    """What a parser found: elements with their attributes, and text by element."""

    elements: list
    texts: list
    open_elements: list

    def of(self, name, **attributes):
        """The attributes of all elements of a name that have these."""
        return [
            found
            for kind, found in self.elements
            if kind == name and all(found.get(k) == v for k, v in attributes.items())
        ]

    @property
    def text(self):
        """Everything that is to be read, spaces joined."""
        shown = [t for kind, t in self.texts if kind not in ("script", "style")]
        return " ".join(" ".join(shown).split())


def parse_page(text):
    """A page as a browser would take it apart; every element must be closed."""
    page = Page([], [], [])

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            page.elements.append((tag, dict(attrs)))
            if tag not in _VOID:
                page.open_elements.append(tag)

        def handle_startendtag(self, tag, attrs):
            page.elements.append((tag, dict(attrs)))

        def handle_endtag(self, tag):
            assert page.open_elements.pop() == tag

        def handle_data(self, data):
            kind = page.open_elements[-1] if page.open_elements else ""
            page.texts.append((kind, data))

    parser = Parser()
    parser.feed(text)
    parser.close()
    return page
