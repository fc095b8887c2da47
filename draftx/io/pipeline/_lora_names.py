"""The names that LoRA files give to the layers of a model: diffusers', PEFT's, kohya's,
and those of the original code of latent diffusion."""

import re
from collections.abc import Iterable


# (pattern of diffusers' name in a block, the original one)
_IN_RESNET = (
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_BLOCK = re.compile(
    r"(?P<way>down|up)_blocks\.(?P<block>\d+)\."
    r"(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


class LayerNames:
    """Finds the layer that a name in a file means, whoever gave the name."""

    def __init__(self, layers: Iterable[str]):
        """**Arguments:**

        - `layers`: All published names, `unet.down_blocks.0...` and
            `text_encoder.text_model.encoder...`.
        """
        by_model: dict[str, list[str]] = {"unet": [], "text_encoder": []}
        for layer in layers:
            model, name = layer.split(".", 1)
            by_model[model].append(name)
        self._known: dict[str, str] = {}
        originals = original_names(by_model["unet"])
        for name in by_model["unet"]:
            layer = f"unet.{name}"
            for spelled in (name, originals[name]):
                # Alone, it is what PEFT and diffusers 0.15 write for one model alone.
                for prefix in (
                    "",
                    "unet.",
                    "diffusion_model.",
                    "model.diffusion_model.",
                ):
                    self._known[prefix + spelled] = layer
                for prefix in ("", "lora_unet_"):
                    self._known[prefix + spelled.replace(".", "_")] = layer
        for name in by_model["text_encoder"]:
            layer = f"text_encoder.{name}"
            # Newer versions of transformers have no `text_model` in between.
            for spelled in (name, name.removeprefix("text_model.")):
                for prefix in ("", "text_encoder."):
                    self._known[prefix + spelled] = layer
                # The last belongs to the first encoder of SDXL.
                for prefix in ("", "lora_te_", "lora_te1_"):
                    self._known[prefix + spelled.replace(".", "_")] = layer

    def find(self, *names: str) -> str | None:
        """Finds the published name of the layer that the first known name means.

        **Arguments:**

        - `names`: As files spell it, PEFT's wrapper included; several if it may be
            spelled in different ways.
        """
        for name in names:
            # Around the pipeline, or around the model in it.
            bare = re.sub(
                r"^((?:unet|text_encoder)\.)?base_model\.model\.", r"\1", name
            )
            if bare in self._known:
                return self._known[bare]
        return None


def original_names(names: Iterable[str]) -> dict[str, str]:
    """Finds the name that each layer of the UNet had in the code of latent diffusion.

    There, the blocks of a way are numbered through: a residual block with its
    transformer is one, and so is a downsampling; an upsampling is part of the last.

    **Arguments:**

    - `names`: Of all layers, as in diffusers.

    **Returns:**

    The original name, by diffusers' name.
    """
    names = list(names)
    found = [match for name in names if (match := _BLOCK.fullmatch(name))]
    sizes: dict[tuple[str, int], int] = {}
    attends, downsamples = set(), set()
    for match in found:
        at = match["way"], int(match["block"])
        if match["part"] == "resnets":
            sizes[at] = max(sizes.get(at, 0), int(match["index"]) + 1)
        elif match["part"] == "attentions":
            attends.add(at)
        elif match["part"] == "downsamplers":
            downsamples.add(at)
    first = {}
    following = {"down": 1, "up": 0}
    for way, block in sorted(sizes):
        first[way, block] = following[way]
        following[way] += sizes[way, block] + ((way, block) in downsamples)

    def original(name: str) -> str:
        if name in _OUTSIDE:
            return _OUTSIDE[name]
        if match := re.fullmatch(
            r"mid_block\.(resnets\.[01]|attentions\.0)\.(.+)", name
        ):
            return f"middle_block.{_MIDDLE[match[1]]}.{_in_block(match[2])}"
        match = _BLOCK.fullmatch(name)
        if match is None:
            return name
        at = match["way"], int(match["block"])
        blocks = "input_blocks" if match["way"] == "down" else "output_blocks"
        number, rest = first[at] + int(match["index"]), _in_block(match["rest"])
        if match["part"] == "downsamplers":
            return f"{blocks}.{first[at] + sizes[at]}.0.op"
        if match["part"] == "upsamplers":
            return f"{blocks}.{first[at] + sizes[at] - 1}.{1 + (at in attends)}.conv"
        return f"{blocks}.{number}.{int(match['part'] == 'attentions')}.{rest}"

    return {name: original(name) for name in names}


def _in_block(name: str) -> str:
    return dict(_IN_RESNET).get(name, name)
