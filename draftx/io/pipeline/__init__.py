"""Pipelines, adapters and learned inputs as files of diffusers and PEFT."""

from ._check_saved import (
    check_saved as check_saved,
    published_config as published_config,
)
from ._components import (
    fill as fill,
    load_component as load_component,
    save_component as save_component,
)
from ._dtypes import check_dtype as check_dtype
from ._embedding import load_embedding as load_embedding
from ._hub import fetch_model as fetch_model, model_files as model_files
from ._image_tokens import (
    load_image_tokens as load_image_tokens,
    save_image_tokens as save_image_tokens,
)
from ._learned import (
    load_learned_inputs as load_learned_inputs,
    save_learned_inputs as save_learned_inputs,
)
from ._load import EMBEDDED_MODELS as EMBEDDED_MODELS, load as load
from ._lora import load_lora as load_lora
from ._lora_about import describe_lora as describe_lora
from ._lora_arithmetic import mix_lora_files as mix_lora_files
from ._lora_convert import convert_lora_file as convert_lora_file
from ._lora_save import save_lora as save_lora
from ._save import save as save
from ._tokenizer import load_tokenizer as load_tokenizer
