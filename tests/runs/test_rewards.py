"""Rewards by name, by a place in a file or a module, with their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.runs import load_reward, main, parse_rewards, RewardSpec


_FILE = """
import dataclasses
from beside import HALF

@dataclasses.dataclass
class Options:
    level: float = HALF

def darkness(images):
    return Options().level - images.mean((1, 2, 3))

class rewards:
    def first(images, rows):
        return images[:, 0, 0, 0]

import draftx
class Brightness(draftx.AbstractReward):
    def __call__(self, images, features=None):
        return images.mean((1, 2, 3))

number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("HALF = 0.5\n")
    path = tmp_path / "mine.py"
    path.write_text(_FILE)
    (tmp_path / "mine.py_wrong.py").write_text("a = 1\ndef f(:\n")
    return path


def test_names_and_weights(file):
    texts = ["pickscore=10", "compressibility", "aesthetic=-0.05", f"{file}:darkness=2"]
    specs = parse_rewards(texts)
    assert specs == [
        RewardSpec("pickscore", 10),
        RewardSpec("compressibility", 1),
        RewardSpec("aesthetic", -0.05),
        RewardSpec(f"{file}:darkness", 2),
    ]
    assert [spec.name for spec in specs] == [
        *("pickscore", "compressibility", "aesthetic", "darkness"),
    ]


def test_what_is_only_measured_may_be_no_part_of_the_score(tmp_path, capsys):
    specs = parse_rewards(["compressibility", "clip=0"], is_measured=True)
    assert specs == [RewardSpec("compressibility", 1), RewardSpec("clip", 0)]
    with pytest.raises(ValueError, match="`reward` must have a finite number after"):
        parse_rewards(["clip=nan"], is_measured=True)
    flags = ["--output-dir", str(tmp_path / "run"), "--reward", "compressibility=0"]
    assert main(["train", *flags]) == 1
    assert "`reward` must have a finite number other than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pickscor"], "`reward` must be one of .*got 'pickscor'. Did you mean 'picks"),
        (["mine.py"], "or a function by its place"),
        (["clip="], "finite number other than 0 after '='; got 'clip='"),
        (["clip=nan"], "finite number other than 0"),
        (["clip=0"], "finite number other than 0"),
        (["clip=1=2"], "finite number other than 0"),
        (["clip=1", "clip=2"], "each reward once; got 'clip' 2 times"),
        (["a.py:f", "b.py:f"], "each reward once; got 'f' 2 times"),
    ],
)
def test_what_is_no_reward_is_named(texts, message):
    with pytest.raises(ValueError, match=message):
        parse_rewards(texts)


def test_the_plain_ones():
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    (more, less) = (
        load_reward(spec)(images)
        for spec in parse_rewards(["compressibility", "incompressibility"])
    )
    np.testing.assert_allclose(more, -less)
    np.testing.assert_allclose(more, draftx.rewards.JPEGCompressibility()(images))


def test_places(file):
    images = jnp.arange(24.0).reshape(2, 2, 2, 3) / 24

    def score(place):
        reward = load_reward(*parse_rewards([place]))
        return reward(images, reward.prepare(["a", "b"]))

    mean = images.mean((1, 2, 3))
    np.testing.assert_allclose(score(f"{file}:darkness"), 0.5 - mean)
    np.testing.assert_allclose(score(f"{file}:rewards.first"), images[:, 0, 0, 0])
    np.testing.assert_allclose(score(f"{file}:Brightness"), mean)
    place = "draftx.rewards:JPEGCompressibility"
    assert load_reward(*parse_rewards([place])) == draftx.rewards.JPEGCompressibility()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{file}_wrong.py:f", "line 2 of '.*_wrong.py' is none: invalid syntax"),
        ("nothing.py:f", "must be in a file; 'nothing.py' is none"),
        ("no.such.module:f", "module that can be imported; 'no.such.module'.*ending"),
        ("{file}:darknes", r"it has no 'darknes', but \['darkness'\]"),
        ("{file}:number", "a reward or a function of images; .*number' is 3"),
    ],
)
def test_places_that_are_none(file, place, message):
    (spec,) = parse_rewards([place.format(file=file)])
    with pytest.raises(ValueError, match=message):
        load_reward(spec)
