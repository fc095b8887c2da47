"""Files of `torch.save`: everything here is written by hand, without PyTorch."""

import collections
import io
import pickle
import struct
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from draftx.io import ModelFileError
from draftx.io.formats import read_torch_file


class _Global:
    """Pickled as the name of something that need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __hash__(self):
        return hash((self.module, self.name))

    def __eq__(self, other):
        return (self.module, self.name) == (other.module, other.name)


class _Call:
    """Pickled as a call of a `_Global`."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state


class _Storage:
    def __init__(self, kind, array, key="0"):
        self.kind, self.array, self.key = kind, array, key


# The one written in Python, which can be told to write what does not exist.
_PythonPickler: Any = getattr(pickle, "_Pickler")  # noqa: B009


class _Pickler(_PythonPickler):
    def persistent_id(self, obj) -> Any:
        if isinstance(obj, _Storage):
            kind = _Global("torch", obj.kind)
            return ("storage", kind, obj.key, "cpu", obj.array.size)
        return None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Global):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, _Call):
            self.save(obj.function)
            self.save(obj.args)
            self.write(b"R")
            if obj.state is not None:
                self.save(obj.state)
                self.write(b"b")
        else:
            super().save(obj, save_persistent_id)


class _LegacyPickler(_Pickler):
    def persistent_id(self, obj):
        pid = super().persistent_id(obj)
        return pid and (*pid, None)


_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = _Global("torch.nn.modules.container", "ParameterDict")


def tensor(storage, shape, strides, offset=0, **kwargs):
    hooks = collections.OrderedDict()
    return _Call(_REBUILD, storage, offset, shape, strides, False, hooks, **kwargs)


def contiguous(array, key="0", kind="FloatStorage"):
    strides = tuple(s // array.itemsize for s in array.strides)
    return tensor(_Storage(kind, array.ravel(), key), array.shape, strides)


def storages_of(tree, found):
    if isinstance(tree, _Storage):
        found[tree.key] = tree
    elif isinstance(tree, _Call):
        storages_of([*tree.args, tree.state], found)
    elif isinstance(tree, dict | list | tuple):
        for node in tree.values() if isinstance(tree, dict) else tree:
            storages_of(node, found)
    return found


def dump(pickler_cls, obj):
    file = io.BytesIO()
    pickler_cls(file, 2).dump(obj)
    return file.getvalue()


def write_zip(path, tree, *, pickled=None, compression=zipfile.ZIP_STORED, extra=()):
    with zipfile.ZipFile(path, "w", compression) as archive:
        data = dump(_Pickler, tree) if pickled is None else pickled
        archive.writestr("archive/data.pkl", data)
        for key, storage in storages_of(tree, {}).items():
            archive.writestr(f"archive/data/{key}", storage.array.tobytes())
        for name, content in dict(extra).items():
            archive.writestr(f"archive/{name}", content)


def write_legacy(path, tree, *, system=None):
    system = dict(protocol_version=1001, little_endian=True) if not system else system
    storages = storages_of(tree, {})
    parts = [0x1950A86A20F9469CFC6C, 1001, system, tree, list(storages)]
    data = [dump(_LegacyPickler, part) for part in parts]
    for storage in storages.values():
        data += [struct.pack("<q", storage.array.size), storage.array.tobytes()]
    path.write_bytes(b"".join(data))


WRITERS = {"zip": write_zip, "legacy": write_legacy}
A = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(params=sorted(WRITERS))
def write(request):
    return WRITERS[request.param]


def test_reads_a_state_dict(write, tmp_path):
    path = tmp_path / "model.pth"
    state = collections.OrderedDict(b=contiguous(A), a=contiguous(A[0] + 7, "1"))
    write(path, state)
    arrays = read_torch_file(path)
    assert list(arrays) == ["b", "a"]
    np.testing.assert_array_equal(arrays["b"], A)
    np.testing.assert_array_equal(arrays["a"], A[0] + 7)
    assert arrays["a"].dtype == np.float32


_DTYPES = dict(
    BFloat16Storage=jnp.bfloat16,
    BoolStorage=np.bool_,
    ByteStorage=np.uint8,
    CharStorage=np.int8,
    DoubleStorage=np.float64,
    HalfStorage=np.float16,
    IntStorage=np.int32,
    LongStorage=np.int64,
    ShortStorage=np.int16,
)


def test_reads_every_dtype(write, tmp_path):
    path = tmp_path / "model.pth"
    expected = {kind: np.arange(3).astype(dtype) for kind, dtype in _DTYPES.items()}
    write(path, {kind: contiguous(x, kind, kind) for kind, x in expected.items()})
    arrays = read_torch_file(path)
    for kind, array in expected.items():
        assert arrays[kind].dtype == array.dtype
        np.testing.assert_array_equal(arrays[kind], array)


def test_views_of_one_storage(write, tmp_path):
    path = tmp_path / "model.pth"
    storage = _Storage("FloatStorage", np.arange(12, dtype=np.float32))
    write(
        path,
        {
            "transposed": tensor(storage, (4, 3), (1, 4)),
            "offset": tensor(storage, (2, 2), (4, 1), offset=5),
            "expanded": tensor(storage, (3, 2), (0, 1), offset=10),
            "scalar": tensor(storage, (), (), offset=11),
            "empty": tensor(storage, (0, 3), (3, 1), offset=12),
        },
    )
    arrays = read_torch_file(path)
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(arrays["transposed"], grid.T)
    np.testing.assert_array_equal(arrays["offset"], [[5, 6], [9, 10]])
    np.testing.assert_array_equal(arrays["expanded"], [[10, 11]] * 3)
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"] == 11
    assert arrays["empty"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in arrays.values())


def test_nested_dictionaries(write, tmp_path):
    path = tmp_path / "model.pth"
    rest = {"step": 3, "name": "x", "none": None, "half": 0.5}
    tree = {"g": {"w": contiguous(A), **rest}, "list": [contiguous(A, "1")], **rest}
    write(path, tree)
    assert list(read_torch_file(path)) == ["g.w", "list.0"]


def test_a_state_dict_stands_alone(write, tmp_path):
    path = tmp_path / "model.pth"
    parameter = _Call(
        _Global("torch._utils", "_rebuild_parameter"), contiguous(A), True, {}
    )
    optimizer = {"state": {0: {"moment": contiguous(A, "other")}}}
    write(path, {"optimizer": optimizer, "state_dict": {"w": parameter}, "epoch": 1})
    assert list(read_torch_file(path)) == ["w"]


def test_metadata_of_a_state_dict(write, tmp_path):
    path = tmp_path / "model.pth"
    ordered = _Call(
        _Global("collections", "OrderedDict"),
        [["w", contiguous(A)]],
        state={"_metadata": collections.OrderedDict({"": {"version": 1}})},
    )
    # `storages_of` sees only lists, tuples, dictionaries and calls.
    write(path, ordered)
    assert list(read_torch_file(path)) == ["w"]


class _Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.target),)


def test_a_malicious_pickle_does_not_run(tmp_path):
    path, target = tmp_path / "model.pth", tmp_path / "made"
    data = pickle.dumps({"w": _Malicious(target)}, 2)
    write_zip(path, {}, pickled=data)
    with pytest.raises(ModelFileError, match="names `posix.mkdir`, which was not run"):
        read_torch_file(path)
    assert not target.exists()
    # It is the reader that refuses it: the pickle does work.
    pickle.loads(data)
    assert target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("collections", "OrderedDict.__init__"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_from_type_v2"),
        ("numpy.core.multiarray", "scalar"),
        ("argparse", "Namespace"),
        ("__torch__", "Model"),
    ],
)
def test_other_names_are_refused(write, module, name, tmp_path):
    path = tmp_path / "model.pth"
    write(path, {"w": contiguous(A), "args": _Call(_Global(module, name))})
    with pytest.raises(ModelFileError, match=f"names `{module}.{name}`.*convert it"):
        read_torch_file(path)


def parameter_dict(parameters):
    """As PyTorch writes a `ParameterDict`, which has much else in its state."""
    nothing = _Call(_Global("__builtin__", "set"), [])
    state = {"training": True, "_non_persistent_buffers_set": nothing, "_buffers": {}}
    return _Call(_PARAMETERS, state=state | {"_parameters": parameters})


def test_a_dictionary_of_parameters(write, tmp_path):
    write(tmp_path / "x.pt", {"words": parameter_dict({"*": contiguous(A)}), "n": 1})
    arrays = read_torch_file(tmp_path / "x.pt")
    assert arrays.keys() == {"words.*"}
    np.testing.assert_array_equal(arrays["words.*"], A)


@pytest.mark.parametrize("parameters", [None, 3, [1]])
def test_a_dictionary_of_parameters_without_any(write, tmp_path, parameters):
    write(tmp_path / "x.pt", {"words": parameter_dict(parameters)})
    with pytest.raises(ModelFileError, match="parameters without parameters"):
        read_torch_file(tmp_path / "x.pt")


def test_what_to_do_with_a_learned_word_in_a_pickle_is_said(write, tmp_path):
    function = _Global("torch.nn.modules.container", "ModuleDict")
    write(tmp_path / "x.pt", {"string_to_param": _Call(function)})
    text = r"of a learned word `\{.*old\[.string_to_param.\]\[.\*.\]\}`"
    with pytest.raises(ModelFileError, match=text):
        read_torch_file(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "target",
    [
        _REBUILD,
        _Global("torch", "FloatStorage"),
        _Global("collections", "OrderedDict"),
        _PARAMETERS,
    ],
)
def test_nothing_can_be_stored_on_what_is_allowed(target, tmp_path):
    class Build(_Call):
        pass

    path = tmp_path / "model.pth"
    head, end = dump(_Pickler, target)[:-1], b"."
    for state in ({"x": 1}, (None, {"x": 1})):
        body = dump(_Pickler, state)[2:-1]
        write_zip(path, {}, pickled=head + body + b"b" + end)
        with pytest.raises(ModelFileError, match="read as a pickle|must hold"):
            read_torch_file(path)
    assert not hasattr(collections.OrderedDict, "x")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((2, 4), (4, 1), 0), ((6,), (1,), 1), ((2, 2), (1,), 0), ((2,), (-1,), 1)],
)
def test_tensors_outside_their_storage(write, shape, strides, offset, tmp_path):
    path = tmp_path / "model.pth"
    storage = _Storage("FloatStorage", A.ravel())
    write(path, {"w": tensor(storage, shape, strides, offset=offset)})
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_torch_file(path)


def test_a_tensor_expanded_without_end(write, tmp_path):
    path = tmp_path / "model.pth"
    storage = _Storage("FloatStorage", A.ravel())
    write(path, {"w": tensor(storage, (2**40,), (0,))})
    with pytest.raises(ModelFileError, match="they unpack to 4398046511104 bytes"):
        read_torch_file(path)


def test_truncated_files(write, tmp_path):
    path = tmp_path / "model.pth"
    write(path, {"w": contiguous(A), "v": contiguous(A, "1")})
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ModelFileError):
            read_torch_file(path)


def test_flipped_bytes_are_an_error_or_harmless(write, tmp_path):
    path = tmp_path / "model.pth"
    write(path, {"w": contiguous(A)})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_torch_file(path)
        except ModelFileError:
            pass


def test_a_storage_that_is_short(tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, {}, pickled=dump(_Pickler, {"w": contiguous(A)}))
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_torch_file(path)
    extra = {"data/0": A.tobytes()[:-4]}
    write_zip(path, {}, pickled=dump(_Pickler, {"w": contiguous(A)}), extra=extra)
    with pytest.raises(ModelFileError, match="storage '0' has 20 of 24 bytes"):
        read_torch_file(path)


def test_compressed_files_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, {"w": contiguous(A)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="is compressed"):
        read_torch_file(path)


def test_big_endian_files_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    write_zip(path, {"w": contiguous(A)}, extra={"byteorder": b"big"})
    with pytest.raises(ModelFileError, match="must be little-endian"):
        read_torch_file(path)
    write_legacy(path, {"w": contiguous(A)}, system={"little_endian": False})
    with pytest.raises(ModelFileError, match="must be little-endian"):
        read_torch_file(path)


def test_cycles_and_other_trees(write, tmp_path):
    path = tmp_path / "model.pth"
    data = b"\x80\x02}q\x00U\x01ah\x00s."  # {"a": itself}
    write_zip(path, {}, pickled=data)
    with pytest.raises(ModelFileError, match="at most 16 deep"):
        read_torch_file(path)
    for tree, text in (({"step": 3}, "a dict without any"), (contiguous(A), "Tensor")):
        write(path, tree)
        with pytest.raises(ModelFileError, match=f"dictionary of tensors; .*{text}"):
            read_torch_file(path)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(ModelFileError, match="is missing"):
        read_torch_file(path)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ModelFileError, match="must be a file of `torch.save`; .*conv"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(ModelFileError, match="a zip file with 0 of data.pkl"):
        read_torch_file(path)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_zip", [True, False])
def test_reads_what_pytorch_writes(is_zip, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2)
    )
    base = torch.randn(4, 6)
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64]
    dtypes += [torch.int16, torch.int8, torch.uint8, torch.bool]
    tree = module.state_dict()
    tree |= {str(dtype): (base * 3).to(dtype) for dtype in dtypes}
    tree |= {
        "base": base,
        "transposed": base.T,
        "row": base[2],
        "strided": base[1::2, ::3],
        "parameter": torch.nn.Parameter(base),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0),
        "expanded": torch.randn(1, 3).expand(5, 3),
    }
    path = tmp_path / "model.pth"
    torch.save(
        {"state_dict": tree, "epoch": 3, "optimizer": {"m": torch.ones(3)}},
        path,
        _use_new_zipfile_serialization=is_zip,
    )
    arrays = read_torch_file(path)
    assert list(arrays) == list(tree)
    for key, value in tree.items():
        value = value.detach()
        assert arrays[key].shape == tuple(value.shape)
        assert arrays[key].dtype.name == str(value.dtype).removeprefix("torch.")
        actual = arrays[key].astype(np.float64)
        np.testing.assert_array_equal(actual, value.double().numpy(), key)
    torch.save(module, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelFileError, match="names `torch.nn.modules"):
        read_torch_file(path)
