"""Models and LoRA weights as files: the formats of diffusers, transformers and PEFT."""

from ._components import (
    load_component as load_component,
    save_component as save_component,
)
from ._errors import ModelFileError as ModelFileError
from ._load import load as load
from ._lora import load_lora as load_lora, save_lora as save_lora
from ._pickle import read_torch_file as read_torch_file
from ._rewards import load_reward as load_reward
from ._save import save as save
