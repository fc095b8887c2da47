import jax.numpy as jnp
import numpy as np
import pytest

from draftx import Table


_COLUMNS = {
    "prompt": ["a", "b", "c"],
    "negative_prompt": ("x", "", "y"),
    "weight": [1, 2, 3],
    "image": np.arange(12.0).reshape(3, 2, 2),
}


def test_a_list_is_a_table_of_one_column():
    table = Table.of(["a", "b"])
    assert (len(table), table.names, table.prompts) == (2, ["prompt"], ["a", "b"])
    assert table.arrays == {}
    assert "weight" not in table
    assert Table.of(table) is table


def test_columns_are_texts_or_arrays():
    table = Table.of(_COLUMNS)
    assert len(table) == 3
    assert table.names == list(_COLUMNS)
    assert set(table.texts) == {"prompt", "negative_prompt"}
    assert set(table.arrays) == {"weight", "image"}
    assert all(isinstance(column, np.ndarray) for column in table.arrays.values())
    taken = table.take(np.asarray([2, 0, 2]))
    assert taken.prompts == ["c", "a", "c"]
    assert taken["negative_prompt"] == ["y", "x", "y"]
    np.testing.assert_array_equal(taken["weight"], [3, 1, 3])
    np.testing.assert_array_equal(taken["image"], _COLUMNS["image"][[2, 0, 2]])
    other = table.with_prompts(["d", "e", "f"])
    assert other.prompts == ["d", "e", "f"]
    assert other["weight"] is table["weight"]
    with pytest.raises(KeyError, match=r"no column 'other', only .*: \.\.\.}\.\"$"):
        table["other"]
    with pytest.raises(KeyError, match="Did you mean 'weight'"):
        table["wieght"]
    assert table.slip("other") == ""
    assert table.slip("wait") == " Did you mean 'wait' where it says 'weight'?"


def test_arrays_of_any_kind():
    texts = np.asarray(["a", "b"])
    half = jnp.ones((2, 3), jnp.bfloat16)
    table = Table.of({"prompt": texts, "mask": [True, False], "half": half})
    assert table.prompts == ["a", "b"]
    assert table["half"].shape == (2, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "`prompts` must hold at least one prompt"),
        ("cat", "Put a single prompt into a list"),
        (["cat", 3], "`prompts` must hold only strings; got 3"),
        ({"weight": [1]}, r"must have a column 'prompt' .* got \['weight'\]"),
        ({"promt": ["a"]}, "Did you mean 'prompt' where it says 'promt'"),
        ({"prompt": ["a"], 3: [1]}, "must name its columns; got 3"),
        ({"prompt": ["a"], "x": [1, 2]}, "columns of one length; got .*'x': 2"),
        ({"prompt": ["a"], "x": ["text"]}, r"`prompts\['x'\]` must be an array of num"),
        ({"prompt": ["a"], "x": 1.0}, r"`prompts\['x'\]` must be an array"),
        (
            {"prompt": ["a"], "x": [[1], [1, 2]]},
            r"`prompts\['x'\]` must have rows of one shape; got \(1,\) and \(2,\)",
        ),
        (
            {"prompt": ["a", "b"], "x": [None, np.ones((2, 2, 3))]},
            r"must have rows of one shape; got \(\) and \(2, 2, 3\)",
        ),
        ({"prompt": ["a"], "x": 3}, r"got shape \(\) of int64\.$"),
        ({"prompt": ["a"], "x": ["a.png"]}, "of pictures give what is in the files"),
        (
            {"prompt": ["a", "b"], "x": [np.ones((2, 2, 3)), np.ones((4, 2, 3))]},
            r"\['x'\]` must have rows of one shape; got \(2, 2, 3\) and \(4, 2, 3\)",
        ),
        ({"prompt": ["a"], "negative_prompt": "b"}, r"`prompts\['negative_prompt'\]`"),
        ({"prompt": ["a"], "negative_prompt": [1]}, r"`prompts\['negative_prompt'\]`"),
    ],
)
def test_bad_input_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        Table.of(rows)


def test_equal_rows_are_found():
    columns = {"prompt": ["a", "b", "a", "a", "b"], "negative_prompt": [*"nnnmn"]}
    table = Table(columns | {"x": np.asarray([[1, 2]] * 4 + [[1, 3]])})
    assert Table.of(["a", "b", "a"]).first_equal().tolist() == [0, 1, 0]
    assert table.first_equal().tolist() == [0, 1, 0, 3, 4]
