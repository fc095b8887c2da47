"""Files of tensors: safetensors, PyTorch's, and writing that survives a kill."""

from ._arrays import Arrays as Arrays, read_arrays as read_arrays
from ._atomic import (
    check_replaceable as check_replaceable,
    new_folder as new_folder,
    remove_folder as remove_folder,
    sweep as sweep,
    write_bytes as write_bytes,
    write_json as write_json,
    write_text as write_text,
)
from ._errors import (
    files_there as files_there,
    first_five as first_five,
    ModelFileError as ModelFileError,
    shown as shown,
)
from ._safetensors import (
    read_json as read_json,
    TensorFile as TensorFile,
    write_tensors as write_tensors,
)
from ._sha256 import check_sha256 as check_sha256
from ._tensors import AbstractTensors as AbstractTensors
from ._torch_file import (
    PickledFile as PickledFile,
    read_torch_contents as read_torch_contents,
    read_torch_file as read_torch_file,
)
from ._variants import (
    check_variant as check_variant,
    describe_files as describe_files,
    has_weights as has_weights,
    weight_kinds as weight_kinds,
    weight_patterns as weight_patterns,
    WeightKind as WeightKind,
)
from ._weights import open_weights as open_weights
