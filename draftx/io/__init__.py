"""Models and LoRA weights as files: the formats of diffusers, transformers and PEFT."""

from ._clip import (
    read_aesthetic_head as read_aesthetic_head,
    read_clip as read_clip,
    read_open_clip as read_open_clip,
    read_tokenizer as read_tokenizer,
    VIT_H_14 as VIT_H_14,
)
from ._components import (
    check_dtype as check_dtype,
    load_component as load_component,
    save_component as save_component,
)
from ._errors import ModelFileError as ModelFileError
from ._hub import is_repo_id as is_repo_id
from ._hub_files import fetch as fetch, HubFiles as HubFiles
from ._image_reward import (
    read_bert_tokenizer as read_bert_tokenizer,
    read_image_reward as read_image_reward,
)
from ._learned import (
    load_learned_inputs as load_learned_inputs,
    save_learned_inputs as save_learned_inputs,
)
from ._load import load as load
from ._local_files import (
    EmbeddedFolder as EmbeddedFolder,
    PackageFile as PackageFile,
    TorchFile as TorchFile,
)
from ._lora import load_lora as load_lora, save_lora as save_lora
from ._networks import read_network as read_network
from ._owlvit import read_owlvit as read_owlvit
from ._pickle import read_torch_file as read_torch_file
from ._safetensors import read_json as read_json
from ._save import save as save
