import os

import jax
import pytest

import draftx


@pytest.mark.parametrize(("batch_size", "count"), [(4, 4), (5, 5), (7, 1), (8, 4)])
def test_a_batch_is_split_evenly_over_the_cores(monkeypatch, batch_size, count):
    asked = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(6)}, raising=False)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    draftx.split_cpu(batch_size)
    assert asked == {"jax_num_cpu_devices": count}


def test_devices_that_are_in_use_stay():
    before = jax.devices()
    draftx.split_cpu(64)
    assert jax.devices() == before
