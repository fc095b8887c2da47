import pytest

from draftx.finetuning import sweep_lora_scale

from ..short import held_out


def test_scale_is_picked_by_the_held_out_score(result, evaluation):
    pipeline = result.pipeline
    scale, rows = sweep_lora_scale(pipeline, [0, 1], evaluation)
    assert [row["lora_scale"] for row in rows] == [0, 1]
    assert scale == max(rows, key=lambda row: row["score"])["lora_scale"]
    told: list[tuple[int, int]] = []
    again, same = sweep_lora_scale(
        pipeline,
        [0, 1],
        evaluation,
        known={0: {"score": 1e6}},
        tell=lambda done, total: told.append((done, total)),
    )
    assert (again, same) == (0, [{"lora_scale": 0, "score": 1e6}, rows[1]])
    assert told == [(0, 2), (1, 2), (2, 2)]
    against = held_out(weights={"against": 1.0}, every=2)
    assert {
        sweep_lora_scale(pipeline, [0, 1], e)[0] for e in (evaluation, against)
    } == {
        0,
        1,
    }
    with pytest.raises(ValueError, match="`scales` must hold at least one"):
        sweep_lora_scale(pipeline, [], evaluation)
