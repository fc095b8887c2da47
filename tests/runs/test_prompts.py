"""Prompts from files and templates, and every odd file named by its line."""

import json

import numpy as np
import pytest

from draftx import Table
from draftx.runs import ANIMALS, read_prompts, split_prompts


def _write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_one_prompt_a_line(tmp_path):
    text = "\ufeffa fox\r\n\r\n  ein Bär  \nشمس 🦊\na fox\n"
    table = read_prompts(_write(tmp_path, "a.txt", text))
    assert table.prompts == ["a fox", "ein Bär", "شمس 🦊", "a fox"]
    assert table.names == ["prompt"]


def test_columns_of_json_lines(tmp_path):
    rows = [
        {"prompt": "a\nb", "negative_prompt": "", "weight": 0.5, "color": [1, 0, 0]},
        {
            "prompt": "c\u2028d",
            "negative_prompt": "fog",
            "color": [0, 0, 1],
            "weight": 2,
        },
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    table = read_prompts(_write(tmp_path, "a.JSONL", text))
    assert table.prompts == ["a\nb", "c\u2028d"]
    assert table["negative_prompt"] == ["", "fog"]
    np.testing.assert_array_equal(table["weight"], [0.5, 2])
    np.testing.assert_array_equal(table["color"], [[1, 0, 0], [0, 0, 1]])


def test_columns_of_csv(tmp_path):
    text = 'prompt, weight,negative_prompt\r\n"a, \n\n b",1,\n"say ""hi""",2.5,fog\n'
    table = read_prompts(_write(tmp_path, "a.csv", text))
    assert table.prompts == ["a, \n\n b", 'say "hi"']
    assert table["negative_prompt"] == ["", "fog"]
    np.testing.assert_array_equal(table["weight"], [1, 2.5])


def test_templates(tmp_path):
    assert len(set(ANIMALS)) == 45
    prompts = read_prompts("a {animals} at night").prompts
    assert (len(prompts), prompts[0]) == (45, "a ant at night")
    colors = _write(tmp_path, "colors.txt", "red\nblue\n")
    prompts = read_prompts(f"{{{colors}}} {{animals}}").prompts
    assert (len(prompts), prompts[46]) == (90, "blue bat")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "at least one prompt; .*a.txt' holds none"),
        ("a.txt", "\n \n", "at least one prompt"),
        ("a.txt", b"fine\n\xff\xfe", "must be UTF-8; line 2 of .*a.txt' is not"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"', "line 2 of .*a.jsonl' has none"),
        ("a.jsonl", '["a"]', "object with 'prompt' in each line; line 1"),
        ("a.jsonl", '{"text": "a"}', r"line 1 of .* is '{\"text\": \"a\"}'"),
        ("a.jsonl", "[" * 100_000, "line 1 of"),
        (
            "a.jsonl",
            '{"prompt": "a", "x": 1}\n{"prompt": "b"}',
            "'x' is missing in 1 of the 2 of .*first in row 2",
        ),
        (
            "a.jsonl",
            '{"prompt": 3}',
            "`prompts.*3.*read from .*a.jsonl",
        ),
        ("a.csv", "text\na\n", r"column 'prompt' in the first line.*\['text'\]"),
        ("a.csv", "prompt,x\na\n", "must have 2 fields in each row.*row 1 of .* has 1"),
        ("a.csv", "prompt,x\na,b\n", "numbers in its column 'x'; row 1 of .* has 'b'"),
        ("a.csv", "prompt\n", "at least one prompt"),
        ("a.csv", 'prompt\n"a', "cannot be read from .*a.csv"),
        ("a.doc", "a", r"must be a file that ends in one of \['.txt'"),
    ],
)
def test_odd_files_are_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(_write(tmp_path, name, content))


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing.txt': No such file"):
        read_prompts(tmp_path / "nothing.txt")
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(ValueError, match="folder.txt': Is a directory"):
        read_prompts(folder)
    for template in ("a {fruits}", "a {", "} {animals}"):
        with pytest.raises(ValueError, match="word list"):
            read_prompts(template)


def test_a_row_keeps_its_side():
    table = Table({"prompt": [f"prompt {i}" for i in range(1000)] * 2})
    train, held_out = split_prompts(table, 0.1)
    assert 150 < len(held_out) < 250
    assert len(train) + len(held_out) == 2000
    assert not set(train.prompts) & set(held_out.prompts)
    more = Table({"prompt": ["another", *table.prompts]})
    assert set(held_out.prompts) <= set(split_prompts(more, 0.1)[1].prompts)


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_both_sides_have_a_row(share):
    for prompts in (["a", "b"], ["a", "b", "b", "c"]):
        train, held_out = split_prompts(Table({"prompt": prompts}), share)
        assert len(train) > 0
        assert len(held_out) > 0
        assert sorted(train.prompts + held_out.prompts) == sorted(prompts)
        assert not set(train.prompts) & set(held_out.prompts)
    with pytest.raises(ValueError, match="two different prompts.*'a' alone"):
        split_prompts(Table({"prompt": ["a", "a"]}), share)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_the_share_is_checked(share):
    with pytest.raises(ValueError, match="`held_out` must"):
        split_prompts(Table({"prompt": ["a", "b"]}), share)
