"""What to do with a file that is not what its name says: its first bytes tell."""

import pathlib
import re


_DAMAGED = "The file is damaged or only partly there; download or copy it again."
_FOREIGN = {
    rb"version https://git-lfs": "It is only the pointer to a file of Git LFS: "
    "`git lfs pull` gets the file itself, and so does a download.",
    rb"(?i)\s*<(!doctype|html|\?xml)": "It is a page of the web: download the file "
    "itself, not the page about it.",
    rb"GGUF": "It is a GGUF file, and quantized files are not supported: take the "
    "float16, bfloat16 or float32 one.",
}
_OF_TORCH = {
    rb"PK\x03\x04|\x80\x02": "It looks like a file of PyTorch: the name of a whole "
    "model must end in .ckpt then, and in a folder of diffusers in .bin.",
}
_OF_SAFETENSORS = {
    rb'(?s).{8}\{"': "It looks like safetensors: its name must end in "
    ".safetensors then.",
}


def remedy(path: pathlib.Path, otherwise: str = _DAMAGED) -> str:
    """Says what to do with a file that cannot be read.

    **Arguments:**

    - `path`: Of the file, of which nothing but the first bytes is read.
    - `otherwise`: What to say of one that begins like no other kind, and is not empty.
    """
    is_of_torch = path.suffix != ".safetensors"
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return _DAMAGED
    if not start:
        return _DAMAGED
    kinds = _FOREIGN | (_OF_SAFETENSORS if is_of_torch else _OF_TORCH)
    return next((what for p, what in kinds.items() if re.match(p, start)), otherwise)
