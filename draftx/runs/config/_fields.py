"""Options that every command has which loads a model."""

from typing import Annotated, TypeAlias

import tyro


ModelField: TypeAlias = Annotated[
    str,
    tyro.conf.arg(
        aliases=("--pretrained-model-name-or-path",),
        help="'tiny', which is embedded, a folder as diffusers writes it, the hub's "
        "name of one, or a single file, .safetensors or .ckpt.",
    ),
]
VariantField: TypeAlias = Annotated[
    str | None, tyro.conf.arg(help="Of the files of weights, such as fp16.")
]
