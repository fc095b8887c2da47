"""Every Python block of every README runs as it stands, but smaller."""

import pathlib
import re

import jax
import pytest

import draftx

from .io import tiny


_ROOT = pathlib.Path(__file__).parent.parent
_READMES = [
    *(_ROOT / folder / "README.md" for folder in ("", "examples", "tests", "weights")),
    *sorted((_ROOT / "draftx").rglob("README.md")),
    *sorted((_ROOT / "benchmarks").rglob("README.md")),
    *sorted((_ROOT / "examples").glob("*_*.md")),
]
# Numbers that say how long something takes, and nothing about whether it works.
_SMALLER = {
    r"num_inference_steps=\d+": "num_inference_steps=2",
    r"num_train_steps=\d+": "num_train_steps=1",
    r"\brank=\d+": "rank=2",
}


def _blocks():
    """Finds each block, with a name that says where it stands."""
    for readme in _READMES:
        text = readme.read_text("utf-8")
        for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.M | re.S):
            language, code = match.groups()
            if language in ("python", "py"):
                line = text[: match.start()].count("\n") + 1
                place = f"{readme.relative_to(_ROOT)}:{line}"
                yield pytest.param(code, place, id=place)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tiny.write_tokenizer(folder, max_length=32)
    return tiny.random_pipeline(tokenizer, short=True)


@pytest.mark.parametrize(("code", "place"), list(_blocks()))
def test_block_runs(code, place, pipeline, tmp_path, monkeypatch):
    for pattern, smaller in _SMALLER.items():
        code = re.sub(pattern, smaller, code)
    monkeypatch.chdir(tmp_path)
    # The embedded model has a test of its own, and is larger than a block needs.
    monkeypatch.setattr(draftx, "load", lambda source: {"tiny": pipeline}[source])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, place, "exec"), {"__name__": place})


def test_blocks_are_found():
    places = [block.id for block in _blocks()]
    for readme in (
        "README.md",
        "draftx/finetuning/README.md",
        "draftx/rewards/README.md",
    ):
        assert any(place.startswith(f"{readme}:") for place in places)


def test_links_lead_somewhere():
    for readme in _READMES:
        text = readme.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (readme.parent / target).exists(), f"{readme}: {target}"
