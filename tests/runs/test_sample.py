"""Images of prompts as files: the same as in Python, under names that are safe."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import draftx
from draftx.runs import main, to_uint8
from draftx.runs.commands._sample import file_name


_SAMPLING = ("--sampling.num-inference-steps", "2", "--sampling.guidance_scale", "1")


def _images(folder):
    rows = [json.loads(x) for x in (folder / "images.jsonl").read_text().splitlines()]
    return rows, [np.asarray(Image.open(folder / row["file"])) for row in rows]


def test_images_are_those_of_the_adapter_at_a_scale(
    model, adapters, short_pipeline, tmp_path, capsys
):
    out = tmp_path / "out"
    flags = ["--model", str(model), "--lora", str(adapters[0]), "--lora-scale", "0.5"]
    flags += ["--prompt", "a cat", "../$d {", "--num-images-per-prompt", "2"]
    flags += ["--seed", "3", "--batch-size", "3", "--output-dir", str(out), *_SAMPLING]
    assert main(["sample", *flags]) == 0
    assert "4 images are in" in capsys.readouterr().out
    rows, images = _images(out)
    assert [row["prompt"] for row in rows] == ["a cat"] * 2 + ["../$d {"] * 2
    assert {path.name for path in out.iterdir()} == {
        *("00000-a-cat.png", "00001-a-cat.png", "00002-d.png", "00003-d.png"),
        *("grid.png", "images.jsonl"),
    }
    with Image.open(out / "00002-d.png") as image:
        assert image.text == {"prompt": "../$d {"}
    pipeline = draftx.load_lora(short_pipeline, adapters[0], scale=0.5)
    noise = [
        jax.random.normal(jax.random.fold_in(jax.random.key(3), i), (8, 8, 4))
        for i in range(4)
    ]
    expected = draftx.sample(
        pipeline,
        [row["prompt"] for row in rows],
        draftx.Sampling(2, 1.0),
        latents=jnp.stack(noise),
    )
    difference = np.abs(np.int32(images) - np.int32(to_uint8(expected)))
    assert difference.max() <= 1


def test_a_run_says_model_adapter_prompts_and_sampling(run, tmp_path):
    out = tmp_path / "out"
    assert main(["sample", str(run), "--output_dir", str(out)]) == 0
    rows, images = _images(out)
    assert [row["prompt"] for row in rows] == ["a cat", "a dog"]
    base = tmp_path / "base"
    flags = ["--run", str(run), "--lora-scale", "0", "--output-dir", str(base)]
    assert main(["sample", *flags, "--prompt", "a cat", "a do"]) == 0
    rows, of_base = _images(base)
    assert [row["prompt"] for row in rows] == ["a cat", "a do"]
    assert np.abs(np.int32(of_base[0]) - images[0]).max() > 3


@pytest.mark.parametrize(
    "prompt",
    ["a fox, flat style", "../../etc/passwd", "C:\\x", "🦊", "a" * 500, "\0\n", "-x"],
)
def test_names_of_files_are_safe(prompt):
    name = file_name(7, prompt)
    assert re.fullmatch(r"00007(-[a-z0-9]+)*", name)
    assert len(name) < 80


def test_what_cannot_be_drawn_is_said_before_anything_is_loaded(
    run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    (run / "lora.safetensors").unlink()
    prompt = ["--prompt", "a cat"]
    for flags, message in (
        ([], '`prompt` must say what is drawn; got none. Say `--prompt "a fox'),
        ([*prompt, "--prompts", "a {animals}"], "must not be given both"),
        ([*prompt, "--lora-scale", "2"], "`lora_scale` must be left out"),
        ([*prompt, "--lora-scale", "nan"], "`lora_scale` must be finite"),
        ([*prompt, "--lora", "no"], "`lora` must be a file or a folder that exists;"),
        ([*prompt, "--num-images-per-prompt", "0"], "`num_images_per_prompt` must"),
        ([*prompt, "--sampling.eta", "2"], "`eta` must lie"),
        (["--run", str(tmp_path / "no")], "`folder` must be that of a run"),
        (["--run", str(run)], "which a run writes at its end; "),
    ):
        assert main(["sample", *flags]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(SystemExit) as error:
        main(["sample", "--promt", "x"])
    assert error.value.code == 2


def test_a_file_is_no_folder_for_images(model, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    flags = ["--prompt", "a cat", "--output-dir", str(tmp_path / "notes.txt")]
    assert main(["sample", "--model", str(model), *flags]) != 0
    assert "`output_dir` must be a folder" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"
