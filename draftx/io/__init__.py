"""Models and LoRA weights as files: the formats of diffusers, transformers and PEFT."""

import typing

from .. import _lazy as _lazy
from .formats import (
    ModelFileError as ModelFileError,
    read_json as read_json,
    read_torch_file as read_torch_file,
)
from .pipeline import (
    check_dtype as check_dtype,
    check_saved as check_saved,
    convert_lora_file as convert_lora_file,
    describe_lora as describe_lora,
    EMBEDDED_MODELS as EMBEDDED_MODELS,
    fetch_model as fetch_model,
    load as load,
    load_component as load_component,
    load_embedding as load_embedding,
    load_image_tokens as load_image_tokens,
    load_learned_inputs as load_learned_inputs,
    load_lora as load_lora,
    mix_lora_files as mix_lora_files,
    model_files as model_files,
    published_config as published_config,
    save as save,
    save_component as save_component,
    save_image_tokens as save_image_tokens,
    save_learned_inputs as save_learned_inputs,
    save_lora as save_lora,
)
from .sources import (
    EmbeddedFolder as EmbeddedFolder,
    fetch as fetch,
    hub_sizes as hub_sizes,
    HubFiles as HubFiles,
    is_repo_id as is_repo_id,
    PackageFile as PackageFile,
    TorchFile as TorchFile,
)


if typing.TYPE_CHECKING:
    from .judges import (
        read_aesthetic_head as read_aesthetic_head,
        read_bert_tokenizer as read_bert_tokenizer,
        read_clip as read_clip,
        read_image_reward as read_image_reward,
        read_network as read_network,
        read_open_clip as read_open_clip,
        read_owlvit as read_owlvit,
        read_tokenizer as read_tokenizer,
        VIT_H_14 as VIT_H_14,
    )

# The files of networks that judge: who brings a reward of his own needs none.
__getattr__ = _lazy.lazily(__name__, "judges")


def __dir__() -> list[str]:
    return _lazy.names(__name__, globals(), "judges")
