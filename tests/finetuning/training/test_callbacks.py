import pytest

import draftx

from ..short import finetune


class _Told(draftx.AbstractCallback):
    def __init__(self, needs):
        self.needs, self.heard = needs, []

    def begin(self, num_train_steps):
        self.heard.append(("begin", num_train_steps))

    def needs_pipeline(self):
        return self.needs

    def __call__(self, row, pipeline):
        self.heard.append((row["step"], pipeline is not None))

    def end(self):
        self.heard.append(("end", None))


def test_a_callback_hears_of_all_and_a_pipeline_is_made_if_one_needs_it(pipeline):
    quiet, other = _Told(False), _Told(False)
    finetune(pipeline, num_train_steps=2, callbacks=[quiet, other])
    steps = [(0, False), (1, False)]
    assert quiet.heard == other.heard == [("begin", 2), *steps, ("end", None)]
    quiet, needy = _Told(False), _Told(True)
    finetune(pipeline, num_train_steps=2, callbacks=[quiet, needy])
    assert (
        needy.heard
        == quiet.heard
        == [("begin", 2), (0, True), (1, True), ("end", None)]
    )


def test_a_callback_that_raises_ends_it(pipeline):
    told = _Told(False)

    def stop(row, pipeline):
        if row["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(pipeline, callbacks=[told, stop])
    assert told.heard == [("begin", 6), (0, True), (1, True), ("end", None)]


def test_a_bar_shows_the_reward(pipeline, capsys, evaluation):
    finetune(
        pipeline,
        num_train_steps=2,
        evaluation=evaluation,
        callbacks=[draftx.ProgressBar()],
    )
    shown = capsys.readouterr().err
    assert "fine-tuning: 2 of 2 steps, reward -" in shown
    assert "held-out" in shown
    finetune(pipeline, num_train_steps=1)
    assert capsys.readouterr().err == ""


def test_a_training_says_what_it_does(pipeline, evaluation, tmp_path):
    class Heard(draftx.AbstractCallback):
        def __init__(self):
            self.heard = []

        def working(self, what):
            self.heard.append(what)

        def __call__(self, row, pipeline):
            self.heard.append(row["step"])

    told = Heard()
    finetune(
        pipeline,
        num_train_steps=2,
        evaluation=evaluation,
        callbacks=[told],
        checkpoints=draftx.Checkpoints(tmp_path, every=2),
    )
    batches = [f"measuring held-out prompts, {n} of 2 batches" for n in range(3)]
    assert told.heard == [
        *("compiling the training step", ""),
        *("compiling the evaluation", *batches[1:], "", 0),
        *(*batches, "", 1),
        *("saving a checkpoint", ""),
    ]
