"""Pictures that files of prompts name, and models that see them, by the command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import draftx
from draftx.models import UNet2DConditionModel
from draftx.runs import main, open_run, read_prompts, to_uint8
from draftx.runs.training import _train

from ..io.tiny import random_model, SHORT_UNET


_PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
_PROMPTS = ["a cat", "a dog", "a do"]
_SAMPLING = ("--sampling.num-inference-steps", "2", "--sampling.guidance-scale", "1")


def _write_rows(file, **columns):
    columns = {"prompt": _PROMPTS} | columns
    rows = [dict(zip(columns, row)) for row in zip(*columns.values(), strict=True)]  # noqa: B905
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.fixture
def rows(tmp_path):
    """A file of prompts with pictures in a folder beside it."""
    (tmp_path / "small").mkdir()
    names = [f"small/{i}.png" for i in range(3)]
    for name, pixels in zip(names, _PIXELS, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    return _write_rows(tmp_path / "rows.jsonl", conditioning_image=names)


@pytest.fixture(scope="module")
def seeing(short_pipeline):
    config = dataclasses.replace(SHORT_UNET, in_channels=8)
    unet = random_model(UNet2DConditionModel, config, np.random.default_rng(2))
    return dataclasses.replace(short_pipeline, unet=unet)


@pytest.fixture(scope="module")
def seeing_model(seeing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeing") / "model"
    draftx.save(seeing, folder)
    return str(folder)


def test_files_name_pictures_from_their_own_folder(rows, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    table = read_prompts(rows)
    assert table.prompts == _PROMPTS
    found = table["conditioning_image"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _PIXELS / 255, atol=1e-6)
    lines = ["prompt,reference,weight"]
    lines += [f"{p},{tmp_path}/small/{i}.png,2" for i, p in enumerate(_PROMPTS)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    table = read_prompts(tmp_path / "rows.csv")
    np.testing.assert_allclose(table["reference"], _PIXELS / 255, atol=1e-6)
    np.testing.assert_array_equal(table["weight"], [2, 2, 2])


def test_pictures_of_other_kinds(tmp_path):
    """Gray ones, some that are turned, and some with an alpha channel."""
    Image.fromarray(_PIXELS[0, ..., 0]).save(tmp_path / "gray.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(_PIXELS[0]).save(tmp_path / "turned.png", exif=turned)
    opaque = np.concatenate([_PIXELS[0], np.full((8, 8, 1), 255, np.uint8)], axis=-1)
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    names = ["gray.png", "turned.png", "opaque.png"]
    found = read_prompts(_write_rows(tmp_path / "rows.jsonl", reference=names))
    gray = np.repeat(_PIXELS[0, ..., :1], 3, axis=-1)
    expected = [gray, np.rot90(_PIXELS[0], -1), _PIXELS[0]]
    np.testing.assert_allclose(found["reference"], np.stack(expected) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["small/0.png", 3, "small/1.png"], "in each row, or in none; row 2 of .*'3'"),
        (["small/0.png"] * 2 + ["no.png"], "row 3 of .*/no.png': No such file"),
        (["rows.jsonl"] * 3, "must name files of pictures; row 1 of .*cannot identify"),
        (["small/0.png", "large.png", "no.png"], "row 2 .*'large.png', has 9x8 pixels"),
        (["cut.png"] * 3, "row 1 of .*cut.png': .*(truncated|broken|Truncated)"),
        (["deep.png"] * 3, "row 1 of .*deep.png': it has more than 8 bits a color"),
        (["a\0b.png"] * 3, "must name files of pictures; row 1"),
    ],
)
def test_what_is_no_picture_is_named(rows, tmp_path, names, message):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.full((8, 8), 999, np.uint16)).save(tmp_path / "deep.png")
    whole = (tmp_path / "small" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    file = _write_rows(tmp_path / "odd.jsonl", conditioning_image=names)
    with pytest.raises(ValueError, match=message):
        read_prompts(file)


def test_images_are_drawn_of_pictures(rows, seeing, seeing_model, tmp_path):
    out = tmp_path / "out"
    flags = ["--model", seeing_model, "--prompts", str(rows), "--output-dir", str(out)]
    assert main(["sample", *flags, *_SAMPLING, "--batch-size", "3"]) == 0
    files = sorted(out.glob("0*.png"))
    found = np.stack([np.asarray(Image.open(file)) for file in files])
    key = jax.random.key(0)
    noise = [jax.random.normal(jax.random.fold_in(key, i), (8, 8, 4)) for i in range(3)]
    columns = {
        "prompt": _PROMPTS,
        "conditioning_image": np.float32(_PIXELS) / np.float32(255),
    }
    draw = lambda columns: to_uint8(
        draftx.sample(
            seeing, columns, draftx.Sampling(2, 1.0), latents=jnp.stack(noise)
        )
    )
    difference = lambda other: np.abs(np.int32(found) - np.int32(other)).max()
    assert difference(draw(columns)) <= 1
    dark = columns | {"conditioning_image": 0 * columns["conditioning_image"]}
    assert difference(draw(dark)) > 3


def _never(*args, **options):
    raise AssertionError("long work had begun")


def test_a_model_that_sees_pictures_says_so_before_long_work(
    rows, seeing_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_train, "settle", _never)
    model = ["--model", seeing_model, *_SAMPLING]
    (tmp_path / "words.txt").write_text("a cat\na dog\n")
    near = _write_rows(tmp_path / "near.jsonl", conditionning_image=[[0.5]] * 3)
    train = ["train", *model, "--output-dir", "run", "--train-batch-size", "2"]
    given = [*train, "--prompts", str(rows)]
    name = "a .jsonl file with `--"
    for command, said in (
        (train, ["`prompts` must have a picture", f". Name {name}prompts`"]),
        (
            [*given, "--held-out-prompts", "words.txt"],
            ["`held_out_prompts` must have a pict", f". Name {name}held-out-prompts`"],
        ),
        (
            [*given, "--validation-prompt", "a cat"],
            [
                "`validation_prompt` must",
                f". Leave it out, and name {name}held-out-pro",
            ],
        ),
        (["evaluate", *model, "--prompts", "words.txt"], [f". Name {name}prompts`"]),
        (["sample", *model, "--prompts", "words.txt"], ["`prompts` must have a pict"]),
        (["sample", *model, "--prompt", "a cat"], [f". Leave it out, and name {name}"]),
        (
            ["sample", *model, "--prompts", str(near)],
            ["Did you mean 'conditioning_image' where it says 'conditionning_image'"],
        ),
        (
            ["sample", *model, "--prompts", str(rows), "--sampling.height", "16"],
            ["`prompts` cannot be drawn by this model: `prompts['condit"],
        ),
    ):
        capsys.readouterr()
        assert main(command) == 1, command
        error = capsys.readouterr().err
        for text in said:
            assert text in error
        if "must have a picture" in error:
            assert "pictures of 8x8 pixels" in error
            assert '"conditioning_image": "fox.png"}' in error
    assert not (tmp_path / "run" / "config.toml").exists()
    assert not list(tmp_path.glob("outputs/images/*"))


def test_a_model_that_sees_none_says_so(rows, model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--model", str(model), "--prompts", str(rows)]) == 1
    assert "must have no column 'conditioning_image'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_pictures(rows, seeing_model, tmp_path):
    out = tmp_path / "run"
    flags = ["--model", seeing_model, "--prompts", str(rows), "--output-dir", str(out)]
    flags += ["--held-out-prompts", str(rows), "--max-train-steps", "2", *_SAMPLING]
    flags += ["--train-batch-size", "1", "--num-validation-images", "2"]
    flags += ["--lora-scales", "0", "1"]
    assert main(["train", *flags]) == 0
    run = open_run(out)
    assert len(run.history) == 2
    assert run.folder.samples(2).is_file()
    assert main(["sample", str(out), "--output-dir", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 2
    assert main(["evaluate", str(out)]) == 0
    assert (out / "evaluation.json").is_file()
