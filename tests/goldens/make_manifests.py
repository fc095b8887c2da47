"""Makes `manifests/*.json.gz`: names and shapes of the tensors of Stable Diffusion 1.4.

The models are built from the published configs without weights. Needs diffusers and
transformers.

    python tests/goldens/make_manifests.py
"""

import gzip
import json
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


FOLDER = pathlib.Path(__file__).parent / "manifests"


def main():
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8
            ),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768, intermediate_size=3072, num_attention_heads=12
                )
            ),
        }
    FOLDER.mkdir(exist_ok=True)
    for name, model in models.items():
        shapes = {key: list(t.shape) for key, t in model.state_dict().items()}
        text = json.dumps(shapes, separators=(",", ":"))
        (FOLDER / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
