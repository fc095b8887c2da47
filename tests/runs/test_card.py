"""The card of a run is the same when it is written again."""

import dataclasses
import json

import draftx
from draftx.finetuning import FinetuneResult
from draftx.runs import main, open_run
from draftx.runs.folder._card import write_card


def test_the_card_written_again_is_the_one_of_the_training(run, short_pipeline, capsys):
    saved = open_run(run)
    history = [{"step": i, "reward": 0.5} for i in range(4)]
    evaluations = [{"step": 0, "score": 1.0}, {"step": 2, "score": 3.5}]
    result = FinetuneResult(short_pipeline, history, evaluations, 2, "early")
    write_card(saved.config, saved.folder, result)
    card = saved.folder.card.read_text()
    assert ": 2 steps of 1 images, the best by the held-out score out of 4." in card
    assert "| 2 | 3.5 |" in card
    for path, rows in (
        (saved.folder.metrics, history),
        (saved.folder.evaluations, evaluations),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved.folder.result.write_text('{"step": 2, "stopped": "early"}')
    saved.folder.card.unlink()
    assert main(["card", str(run)]) == 0
    assert saved.folder.card.read_text() == card
    assert "README.md" in capsys.readouterr().out


def test_what_has_no_card(run, tmp_path, capsys):
    (run / "lora.safetensors").unlink()
    assert main(["card", str(run)]) == 1
    assert "has no lora.safetensors" in capsys.readouterr().err
    assert main(["card", str(tmp_path)]) == 1
    assert "must be that of a run, with a config.toml" in capsys.readouterr().err
    assert draftx.runs.open(run).step is None


def test_of_a_model_that_sees_an_image_it_shows_the_column(run, capsys):
    saved = open_run(run)
    saved.folder.result.write_text('{"step": 2, "sees_image": true}')
    assert main(["card", str(run)]) == 0
    card = saved.folder.card.read_text()
    assert '"conditioning_image": pictures}' in card
    assert "draftx.sample(pipeline, rows)" in card


def test_it_says_how_the_model_is_loaded(run, short_pipeline):
    config = open_run(run).config
    changed = dataclasses.replace(config, model="a.safetensors", model_config="v2-base")
    write_card(changed, open_run(run).folder, FinetuneResult(short_pipeline, []))
    card = open_run(run).folder.card.read_text()
    assert "pipeline = draftx.load('a.safetensors', config='v2-base')" in card
