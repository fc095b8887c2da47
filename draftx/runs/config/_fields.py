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
RevisionField: TypeAlias = Annotated[
    str | None,
    tyro.conf.arg(help="Of a model on the hub: a branch, a tag or a commit."),
]
ModelConfigField: TypeAlias = Annotated[
    str | None,
    tyro.conf.arg(
        help="Of a single file, which has no configs: v1, v2, v2-base, turbo, or a "
        "folder of diffusers whose configs are read. None: what the file looks like."
    ),
]
