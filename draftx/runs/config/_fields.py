"""Options that every command has which loads a model."""

from typing import Annotated, TypeAlias

import tyro


ModelField: TypeAlias = Annotated[
    str,
    tyro.conf.arg(
        aliases=("--pretrained-model-name-or-path",),
        help="'tiny', which is embedded, a folder as diffusers writes it, or the hub's "
        "name of one.",
    ),
]
VariantField: TypeAlias = Annotated[
    str | None, tyro.conf.arg(help="Of the files of weights, such as fp16.")
]
