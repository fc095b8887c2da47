"""Reading the folder of a whole pipeline, as diffusers writes it."""

import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...diffusion import DDIM, SchedulerConfig
from ...models import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTokenizer,
    UNet2DConditionModel,
)
from ...pipeline import Pipeline
from ..formats import (
    describe_files,
    has_weights,
    ModelFileError,
    read_json,
    weight_kinds,
)
from ._components import (
    check_class,
    fill,
    make_skeleton,
    open_component,
    weights_stem,
)
from ._embedding import EMBEDDING_FILES
from ._repair import repair_scheduler, repair_unet
from ._schedulers import scheduler_class, with_defaults
from ._tokenizer import check_tokenizer, load_tokenizer


_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NETWORKS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_config.json")


class Description(NamedTuple):
    """Holds all of a model but its weights: configs by part, sampler, tokenizer.

    `name` is that of the folder, for error texts, and `names` are those of the configs.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]
    sampler: DDIM
    tokenizer: CLIPTokenizer


def load_folder(
    folder: pathlib.Path, dtype: Any, variant: str | None = None
) -> Pipeline:
    """**Arguments:**

    - `folder`: Has `model_index.json` and a folder for each part.
    - `dtype`, `variant`: As in [`draftx.load`][].
    """
    # The large files last: what is wrong elsewhere is found at once.
    description = describe_folder(folder)
    variants = _variants_of_parts(folder, variant)

    def network(part: str) -> Any:
        cls = NETWORKS[part]
        file = open_component(cls, folder / part, variants[part])
        config, name = description.configs[part], description.names[part]
        return fill(make_skeleton(cls, config, name, file, dtype), file)

    return assemble(description, network)


def describe_folder(folder: pathlib.Path) -> Description:
    """Reads what a folder of a pipeline says beside its weights.

    **Arguments:**

    - `folder`: Has `model_index.json` and a folder for each part.
    """
    index = read_model_index(folder)
    check_model_index(index, str(folder))
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelFileError(
            f"{str(folder)!r} must have the folders {', '.join(_PARTS)}; missing are "
            f"{', '.join(missing)}."
        )
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path)
    name = scheduler_class(index, scheduler, path)
    scheduler = with_defaults(repair_scheduler(scheduler, path, name), name)
    try:
        sampler = DDIM(SchedulerConfig.from_dict(scheduler))
    except (TypeError, ValueError) as e:
        raise ModelFileError(f"{str(path)!r} describes no scheduler: {e}") from e
    tokenizer = load_tokenizer(folder / "tokenizer")
    paths = {part: folder / part / "config.json" for part in NETWORKS}
    configs = {part: read_json(path) for part, path in paths.items()}
    for part, cls in NETWORKS.items():
        check_class(cls, configs[part], str(paths[part]))
    configs["unet"] = repair_unet(configs["unet"], paths["unet"])
    names = {part: str(path) for part, path in paths.items()}
    return Description(str(folder), configs, names, sampler, tokenizer)


def assemble(description: Description, network: Callable[[str], Any]) -> Pipeline:
    """Makes a pipeline of its parts, which must fit one another.

    **Arguments:**

    - `description`: All but the weights.
    - `network`: Loads the network of a part.
    """
    name = description.name
    text_encoder = network("text_encoder")
    check_tokenizer(description.tokenizer, text_encoder, name)
    vae = network("vae")
    unet = network("unet")
    sampler, tokenizer = description.sampler, description.tokenizer
    try:
        return Pipeline(unet, vae, text_encoder, sampler, tokenizer)
    except ValueError as e:
        raise ModelFileError(f"The parts of {name!r} do not fit: {e}") from e


def read_model_index(folder: pathlib.Path) -> dict[str, Any]:
    """The parsed `model_index.json`, or an error that says what the folder is."""
    path = folder / "model_index.json"
    if path.is_file():
        return read_json(path)
    got = "holds none"
    if any((folder / name).is_file() for name in _LORA_FILES):
        got = (
            "is a LoRA: load the model that it was trained on, then the LoRA with "
            "`draftx.load_lora`"
        )
    elif any((folder / name).is_file() for name in EMBEDDING_FILES):
        got = (
            "is a learned word: load the model that it was learned with, then the word "
            "with `draftx.load_embedding`"
        )
    elif (folder / "config.json").is_file():
        got = "is one part of a model: pass the folder above it"
    raise ModelFileError(
        "`source` must be a folder with a model_index.json, as diffusers' "
        f"`save_pretrained` writes it; {str(folder)!r} {got}."
    )


def check_model_index(index: Mapping[str, Any], name: str) -> None:
    """Raises unless the file describes Stable Diffusion 1.x or 2.x."""
    kind = index.get("_class_name")
    if "text_encoder_2" in index or "XL" in str(kind):
        raise ModelFileError(
            f"`source` must be a Stable Diffusion 1.x or 2.x model; {name!r} is a "
            f"{kind}. SDXL has two text encoders and is not supported."
        )
    for part, cls in NETWORKS.items():
        entry = index.get(part)
        got = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if got != cls.__name__:
            raise ModelFileError(
                "`source` must be a Stable Diffusion 1.x or 2.x model, whose "
                f"{part} is a {cls.__name__}; that of {name!r}, a {kind}, is {got!r}."
            )


def _variants_of_parts(
    folder: pathlib.Path, variant: str | None
) -> dict[str, str | None]:
    """Which variant each network is read of: the one asked for, where it has that."""
    stems = {part: weights_stem(cls) for part, cls in NETWORKS.items()}
    kinds = weight_kinds(variant)
    found: dict[str, str | None] = {
        part: variant if has_weights(folder / part, stem, kinds) else None
        for part, stem in stems.items()
    }
    lacking = [part for part, of_part in found.items() if of_part is None]
    if variant is None or not lacking:
        return found
    if len(lacking) == len(found):
        names = {path.name for part in stems for path in (folder / part).glob("*")}
        there = describe_files(names, *sorted({*stems.values()}))
        raise ModelFileError(
            f"`variant` must be None or a variant that {str(folder)!r} has; got "
            f"{variant!r}, and no part has weights of that name.{there}"
        )
    warnings.warn(
        f"{str(folder)!r} has no {variant!r} weights of {', '.join(lacking)}; those "
        "without a variant are read, as diffusers' pipeline does.",
        stacklevel=4,
    )
    return found
