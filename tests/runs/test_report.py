"""The page about runs: what it says, of runs in any state, and that all is escaped."""

import io
import json
import math
import re

import numpy as np
import pytest

from draftx.io import ModelFileError
from draftx.runs import main, write_report
from draftx.runs.folder._folder import write_lines
from draftx.runs.folder._panels import split_panels
from draftx.runs.report._charts import chart, Series, smoothed
from draftx.runs.report._runs import merged_evaluations

from .reports import EVIL, make_run, parse_page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first").path


def _page(tmp_path, *runs):
    text = write_report(runs, tmp_path / "page.html").read_text("utf-8")
    page = parse_page(text)
    assert page.open_elements == []
    # It asks for nothing: no address in it leads out.
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)\w""", text)
    assert "://" not in text
    (policy,) = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    # No script and no element came out of what runs and prompts are called.
    assert len(page.of("script")) == 1
    assert EVIL not in text
    for name in ("b", "i"):
        assert all(set(a) <= {"class"} for a in page.of(name))
    return page


def _series(page):
    """The curves of each chart by its name, as the script reads them."""
    found = {}
    for element, attributes in page.elements:
        if element == "div" and attributes.get("class") == "plot":
            series = json.loads(attributes["data-series"])
        elif element == "svg":
            found[attributes["aria-label"].removesuffix(" over training steps")] = (
                series
            )
    return found


def test_a_run_that_is_finished(finished, tmp_path, capsys):
    page = _page(tmp_path, finished)
    out = tmp_path / "of" / "command.html"
    assert main(["report", str(finished), "--output", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_text() == (tmp_path / "page.html").read_text()
    text = page.text
    assert "first · draftx" in text
    assert "complete" in text
    assert "12 of 12" in text
    assert "not a finite number in 2 of 12 steps" in text
    # Held-out figures: before, after, and the difference.
    assert "score −30 → −18 +12" in text
    assert "red<b>ness 0.25 → 0.37 +0.12" in text
    assert "train reward" in text
    # What the card says, and what the run was made with.
    for words in ("apache-2.0", "compressibility", "draft-lv", "9.8.7", "2 min 0 s"):
        assert words in text
    assert 'name = "draft-lv"' in text
    assert "What differs" not in text
    assert EVIL in text
    assert page.of("img", alt=f"{EVIL}, step 6", **{"data-step": "6"})
    curves = _series(page)
    assert list(curves) == [
        "reward in training",
        "score, held-out",
        "red<b>ness, held-out",
        "gradient norm",
        "images per second",
    ]
    batch, mean, held_out = curves["reward in training"]
    assert (batch["x"], batch["spread"][0]) == ([*range(1, 13)], 2)
    assert batch["y"] == [-20, -19, -18, None, None, *range(-15, -8)]
    assert mean["y"][:9] == [None] * 9
    assert mean["y"][9] == pytest.approx(np.mean([-20, -19, -18, *range(-15, -10)]))
    assert (held_out["x"], held_out["y"]) == ([0, 6, 12], [-30, -24, -18])
    assert curves["gradient norm"][0]["y"][3] is None


def test_each_reward_of_a_sum_has_a_chart(tmp_path):
    run = make_run(tmp_path / "sum")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    part = lambda name, i: {f"reward/{name}": i + 0.5, f"reward_std/{name}": 0.25}
    write_lines(run.metrics, [row | part("clip", row["step"]) for row in rows])
    assert "reward: clip" not in _series(_page(tmp_path, run.path))
    both = [row | part("clip", row["step"]) | part("<i>", 0) for row in rows]
    write_lines(run.metrics, both)
    curves = _series(_page(tmp_path, run.path))
    names = ["score, held-out", "red<b>ness, held-out", "gradient norm"]
    names += ["images per second", "reward: clip", "reward: <i>"]
    # No chart of a spread alone.
    assert set(curves) == {"reward in training", *names}
    (clip,) = curves["reward: clip"]
    assert clip["y"] == [i + 0.5 for i in range(12)]
    assert clip["spread"] == [0.25] * 12


def test_pictures_by_step(finished, tmp_path):
    page = _page(tmp_path, finished)
    (slider,) = page.of("input", id="step")
    assert slider["data-steps"] == "0 6 12"
    assert (slider["max"], slider["value"]) == ("2", "2")
    images = [a for a in page.of("img") if "data-step" in a]
    assert len(images) == 6
    # Without a script the last ones are seen.
    assert {a["data-step"] for a in images if "hidden" not in a} == {"12"}
    assert len(page.of("img", alt="a fox, before")) == 1
    assert len(page.of("img", **{"class": "after"})) == 2
    assert len(page.of("input", id="wipe")) == 1


def test_a_grid_is_taken_apart(finished):
    from matplotlib import image

    content = (finished / "samples" / "step-00000006.png").read_bytes()
    panels = split_panels(content)
    rows = [(panel.row, panel.caption) for panel in panels]
    captions = ("a fox", EVIL)
    assert rows == [(row, c) for row in ("base", "step 6") for c in captions]
    colors = ([0, 1, 0], [0.5, 0, 0.5])
    for panel, color in zip(panels, np.repeat(colors, 2, axis=0), strict=True):
        pixels = image.imread(io.BytesIO(panel.png), format="png")[..., :3]
        # Nothing of the frame, of the words and of the neighbours is left.
        assert pixels.shape[0] > 100
        np.testing.assert_allclose(
            pixels, np.broadcast_to(color, pixels.shape), atol=0.01
        )
    with pytest.raises(ValueError, match="the picture is damaged"):
        split_panels(content[:-200])


def test_a_run_that_goes_on(tmp_path):
    run = make_run(tmp_path / "run", steps=8, of=20)
    page = _page(tmp_path, run.path)
    assert "8 of 20 steps" in page.text
    assert "complete" not in page.text.partition("This page is complete")[0]
    # The rows of its steps already have what the end writes into a file.
    assert "score −30 → −24 +6" in page.text
    assert "not written yet" in page.text
    # What it wrote when it last ended may be of steps that it takes again.
    history = [{"step": 0, "before/score": 1.0}, {"step": 1, "held_out/score": 2.0}]
    before = [{"step": n, "score": 9.0, "train_reward": 3.0} for n in (0, 2, 4)]
    assert merged_evaluations(history, before) == [
        {"step": 0, "score": 1.0, "train_reward": 3.0},
        {"step": 2, "score": 2.0, "train_reward": 3.0},
    ]
    assert merged_evaluations([], before) == before


def test_a_run_that_has_nothing_yet(tmp_path):
    run = make_run(tmp_path / "run", steps=1, of=20, is_evaluated=False)
    for path in (run.metrics, *run.samples(0).parent.iterdir()):
        path.unlink()
    text = _page(tmp_path, run.path).text
    assert "0 of 20 steps" in text
    for words in ("measured on held-out prompts yet", "drawn yet", "No step was taken"):
        assert words in text


def test_how_a_run_ended(tmp_path):
    run = make_run(tmp_path / "run", steps=8, of=20)
    run.lora.touch()
    result = {"step": 6, "stopped": "no better <b>for</b> 3 evaluations"}
    run.result.write_text(json.dumps(result))
    text = _page(tmp_path, run.path).text
    assert "lora.safetensors, as it was after step 6" in text
    assert "when it last ended no better <b>for</b> 3 evaluations" in text


def test_a_run_without_evaluations(tmp_path):
    run = make_run(tmp_path / "run", is_evaluated=False)
    page = _page(tmp_path, run.path)
    assert "Nothing was measured on held-out prompts yet" in page.text
    assert len(_series(page)["reward in training"]) == 2


def test_pictures_that_are_damaged_or_of_another_tool(finished, tmp_path):
    run = make_run(tmp_path / "run")
    run.samples(6).write_bytes(run.samples(6).read_bytes()[:-200])
    run.samples(7).write_bytes(b"")
    page = _page(tmp_path, run.path)
    assert "samples/step-00000006.png could not be read: the picture is damaged" in (
        page.text
    )
    assert "step-00000007.png could not be read: it is no PNG file" in page.text
    assert page.of("input", id="step")[0]["data-steps"] == "0 12"
    # One that does not say where its images are is shown whole, and so are the others.
    from matplotlib import image

    image.imsave(run.samples(6), np.zeros((8, 16, 3)))
    page = _page(tmp_path, run.path)
    images = [a["src"] for a in page.of("img") if "data-step" in a]
    assert len(images) == len(set(images)) == 3


def test_other_prompts_than_before(tmp_path):
    run = make_run(tmp_path / "run", prompts=("a cow", "a fox"))
    more = make_run(tmp_path / "more", prompts=("a bee", "a fox"))
    run.samples(12).write_bytes(more.samples(12).read_bytes())
    images = [a for a in _page(tmp_path, run.path).of("img") if "data-step" in a]
    assert [a["alt"] for a in images] == [
        "a bee, step 12",
        *(f"a fox, step {step}" for step in (0, 6, 12)),
    ]


def test_several_runs(finished, tmp_path):
    flags = ["--rank", "3", "--reward", "clip=2", "--sampling.eta", "1"]
    second = make_run(tmp_path / "<i>second", steps=8, of=12, flags=flags)
    page = _page(tmp_path, finished, second.path)
    text = page.text
    differing = text.partition("What differs")[2].partition("On held-out")[0]
    assert differing.split() == [
        *("first", "<i>second", "reward", "compressibility", "clip=2"),
        *("rank", "8", "3", "sampling.eta", "0.0", "1.0"),
    ]
    assert "trained on different rewards" in text
    assert page.of("input", id="step")[0]["data-steps"] == "0 4 6 8 12"
    names = [one["name"] for one in _series(page)["score, held-out"]]
    assert names == ["first", "<i>second"]
    same = make_run(tmp_path / "other" / "first").path
    text = _page(tmp_path, finished, same).text
    assert "The configurations are the same." in text
    # Folders of one name go by where they are.
    assert f"{finished}, {same}" in text


def test_what_is_no_run(finished, tmp_path, capsys):
    for arguments, message in (
        ([], "at least one folder of a run"),
        ([str(tmp_path)], "must be that of a run, with a config.toml"),
        ([str(finished), str(finished)], "given more than once"),
        ([str(finished), "--output", "page.txt"], "`output` must end in .html"),
        ([str(finished), "-o", f"{finished}/config.toml/x.html"], "can be written"),
    ):
        assert main(["report", *arguments]) == 1
        assert message in capsys.readouterr().err
    run = make_run(tmp_path / "run", steps=1, of=2)
    run.metrics.write_text("{\n")
    with pytest.raises(ModelFileError, match="metrics.jsonl' must be a JSON object"):
        write_report([run.path], tmp_path / "page.html")


@pytest.mark.parametrize(
    ("y", "ticks"),
    [
        ([-30, -18], ["−30", "−25", "−20", "−15"]),
        ([0.25, 0.25], ["0.22", "0.24", "0.26", "0.28"]),
        ([0, 0], ["−1", "−0.5", "0", "0.5", "1"]),
        ([1e-5, math.nan, 3e-5], ["1e−05", "1.5e−05", "2e−05", "2.5e−05", "3e−05"]),
    ],
)
def test_ticks_are_round(y, ticks):
    x = np.arange(len(y), dtype=np.float64)
    text = chart("name", [Series("", x, np.asarray(y, np.float64))], len(y))
    assert re.findall(r'class="y"[^>]*>([^<]*)', text)[-len(ticks) :] == ticks


def test_curves_of_many_points_and_of_none():
    x = np.arange(10_000.0)
    text = chart("name", [Series("", x, np.where(x < 5000, np.nan, x))], 10_000)
    (attributes,) = parse_page(text).of("div", **{"class": "plot"})
    (series,) = json.loads(attributes["data-series"])
    assert len(series["x"]) == 295
    # Each of them is the mean of 34.
    assert (series["x"][0], series["x"][1]) == (16.5, 50.5)
    assert series["y"][0] is None
    assert series["y"][-1] == series["x"][-1]
    assert chart("name", [Series("", x, np.full(len(x), np.nan))], 10) == ""
    assert chart("name", [], 0) == ""
    one = chart("name", [Series("", np.ones(1), np.ones(1))], 1)
    assert 'class="dot c-0"' in one
    np.testing.assert_allclose(
        smoothed(np.asarray([1, math.nan, 3, 5]), 2), [math.nan, 1, 3, 4]
    )
