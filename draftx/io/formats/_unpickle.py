"""The pickle inside a file of `torch.save`, read without running what it names.

A pickle is a program: it may name any function of any installed package and have it
called. Here the names that describe tensors become inert records, and any other name is
an error before anything happens.
"""

import collections
import io
from pickle import Unpickler as AbstractUnpickler
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._errors import ModelFileError, shown


class StorageType(NamedTuple):
    """A dtype, as a storage's class or a `torch.dtype` says it."""

    dtype: str


class Storage(NamedTuple):
    """A flat piece of memory, known by its key in the file."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def read(self, data: np.ndarray) -> np.ndarray:
        """The tensor, given the bytes of its storage; contiguous."""
        dtype = jnp.dtype(self.dtype)
        size = len(data) // dtype.itemsize
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        last = self.offset + sum(
            (n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)
        )
        if last >= size:
            raise ValueError(f"it ends at {last + 1} of {size} elements")
        flat = data[: size * dtype.itemsize].view(dtype)[self.offset :]
        strides = [stride * dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(
            flat, self.shape, strides, writeable=False
        )
        return np.ascontiguousarray(view).reshape(self.shape)


class _RebuildTensor:
    """What stands for `_rebuild_tensor` and its later versions.

    In the third, the seventh argument is a dtype.
    """

    # Nothing can be stored on it.
    __slots__ = ()

    def __call__(self, *args: Any) -> Tensor:
        storage, offset = args[:2]
        shape, strides = args[2:4]
        dtype = args[6] if len(args) > 6 else None
        if not isinstance(storage, Storage):
            raise TypeError("a tensor without a storage")
        numbers = (offset, *shape, *strides)
        is_count = lambda n: isinstance(n, int) and n >= 0
        if len(shape) != len(strides) or not all(map(is_count, numbers)):
            raise ValueError(f"a tensor of shape {shape!r} with strides {strides!r}")
        name = dtype.dtype if isinstance(dtype, StorageType) else storage.dtype
        return Tensor(storage, offset, tuple(shape), tuple(strides), name)


class _First:
    """A parameter is its tensor; a `torch.Size` its tuple; a set the list of it."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return args[0]


class ParameterDict:
    """What stands for a `torch.nn.ParameterDict`: its parameters, by name.

    The first files of textual inversion keep their vectors in one.
    """

    # Nothing else can be stored on it.
    __slots__ = ("parameters",)

    def __new__(cls) -> "ParameterDict":
        # Pickles make it without `__init__`.
        new = super().__new__(cls)
        new.parameters = {}
        return new

    def __setstate__(self, state: Any) -> None:
        parameters = state.get("_parameters") if isinstance(state, dict) else None
        if not isinstance(parameters, dict):
            raise TypeError("a dictionary of parameters without parameters")
        self.parameters = parameters


_STORAGES = dict(
    BFloat16Storage="bfloat16",
    BoolStorage="bool",
    ByteStorage="uint8",
    CharStorage="int8",
    DoubleStorage="float64",
    FloatStorage="float32",
    HalfStorage="float16",
    IntStorage="int32",
    LongStorage="int64",
    ShortStorage="int16",
)
_DTYPES = dict(
    bfloat16="bfloat16",
    bool="bool",
    double="float64",
    float="float32",
    float16="float16",
    float32="float32",
    float64="float64",
    half="float16",
    int="int32",
    int16="int16",
    int32="int32",
    int64="int64",
    int8="int8",
    long="int64",
    uint8="uint8",
)
_ALLOWED: dict[tuple[str, str], Any] = {
    # Two names of one class: the first is that of Python 2.
    ("__builtin__", "set"): _First(),
    ("builtins", "set"): _First(),
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): _First(),
    ("torch._utils", "_rebuild_parameter"): _First(),
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v3"): _RebuildTensor(),
    ("torch.nn.modules.container", "ParameterDict"): ParameterDict,
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
    **{("torch", name): StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{("torch", name): StorageType(dtype) for name, dtype in _DTYPES.items()},
}


# Where trainers take from what they keep beside the tensors of a checkpoint.
_OF_TRAINERS = ("lightning", "lightning_fabric", "numpy", "omegaconf")
_OF_TRAINERS += ("pytorch_lightning", "_codecs", "collections", "typing")


class _PassedOver:
    """What stands for an object beside the tensors: takes everything, keeps nothing."""

    __slots__ = ()

    def __new__(cls, *args: Any) -> "_PassedOver":
        del args
        return super().__new__(cls)

    def __call__(self, *args: Any) -> "_PassedOver":
        del args
        return self

    def __setstate__(self, state: Any) -> None:
        del state

    def __setitem__(self, key: Any, value: Any) -> None:
        del key, value

    def append(self, item: Any) -> None:
        """Takes an `item` of a list."""
        del item

    def extend(self, items: Any) -> None:
        """Takes `items` of a list."""
        del items

    def add(self, item: Any) -> None:
        """Takes an `item` of a set."""
        del item


class _Unpickler(AbstractUnpickler):
    def __init__(
        self,
        file: io.BufferedIOBase,
        name: str,
        storages: dict[str, Storage],
        is_checkpoint: bool,
    ):
        # Files of Python 2 have byte strings for names.
        super().__init__(file, encoding="utf-8")
        self._name = name
        self._storages = storages
        self._is_checkpoint = is_checkpoint

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            if self._is_checkpoint and module_name.split(".")[0] in _OF_TRAINERS:
                return _PassedOver
            named = shown(f"{module_name}.{global_name}")
            raise ModelFileError(
                f"{self._name!r} must hold tensors in dictionaries and nothing else; "
                f"its pickle names `{named}`, which was not run. "
                "If you trust the file, convert it with PyTorch: `old = torch.load("
                '"old.pt", weights_only=False)`, then `torch.save(tensors, "new.pt")`, '
                'where `tensors` is `old["state_dict"]` of a checkpoint that has one, '
                "`old.state_dict()` of a module, and of a learned word "
                '`{"<word>": old["string_to_param"]["*"]}`.'
            ) from None

    def persistent_load(self, pid: Any, /) -> Any:
        # PyTorch before 1.6 wrote the class of a module with its source.
        if pid[:2] == ("module", ParameterDict):
            return ParameterDict
        kind, storage_type, key = pid[:3]
        size, view = pid[4], pid[5:]
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise ValueError(f"a persistent object {kind!r}")
        if any(part is not None for part in view):
            raise ValueError("a storage that is a part of another one")
        if type(size) is not int or size < 0:
            raise ValueError(f"a storage of size {size!r}")
        storage = Storage(str(key), storage_type.dtype, size)
        if self._storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"two storages called {storage.key!r}")
        return storage


def unpickle(
    file: io.BufferedIOBase,
    name: str,
    storages: dict[str, Storage],
    *,
    is_checkpoint: bool = False,
) -> Any:
    """Reads one pickle: dictionaries, lists, numbers, strings and `Tensor` records.

    **Arguments:**

    - `file`: Left at the byte after the pickle.
    - `name`: Of the file, for the error text.
    - `storages`: Gets the storages that the pickle mentions, by key.
    - `is_checkpoint`: Whether objects that trainers keep beside the tensors are passed
        over: what is of Lightning, NumPy and the like becomes a record without content.
    """
    try:
        return _Unpickler(file, name, storages, is_checkpoint).load()
    except ModelFileError:
        raise
    # A damaged pickle can make the interpreter raise nearly anything.
    except Exception as e:
        raise ModelFileError(
            f"{name!r} cannot be read as a pickle of tensors: {type(e).__name__}: "
            f"{shown(str(e))}. "
            "The file is damaged or only partly there; download or copy it again."
        ) from e
