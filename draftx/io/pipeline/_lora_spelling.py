"""Layers as the tensors of a file call them, for who has no model to compare with."""

import re


_WRAPPED = re.compile(r"^((?:unet|text_encoder(?:_2)?)\.)?base_model\.model\.")
_TEXT = re.compile(
    r"text_encoder(_2)?\.|lora_te1?_|lora_te(2)_|(?=text_model\.|encoder\.layers\.)"
)
_UNET = re.compile(r"unet\.|lora_unet_|(?:model\.)?diffusion_model\.")


class SpelledNames:
    """Gives a layer the name that files of one kind agree on, without any model."""

    def find(self, *names: str) -> str | None:
        """Finds the name of a layer, that of its model in front.

        Those of kohya's scripts keep their underscores, in which the names of
        diffusers cannot be told apart.

        **Arguments:**

        - `names`: As files spell it; several if it may be the UNet's or the text
            encoder's.
        """
        if not names:
            return None
        unet, text = (_WRAPPED.sub(r"\1", name) for name in (names[0], names[-1]))
        if match := _TEXT.match(text):
            second = "_2" if any(match.groups()) else ""
            bare = text[match.end() :]
            # Newer versions of transformers have no `text_model` in between.
            if bare.startswith("encoder."):
                bare = f"text_model.{bare}"
            return f"text_encoder{second}.{bare}"
        return f"unet.{_UNET.sub('', unet, count=1)}"


def spelling(layer: str) -> str:
    """Names who spells a layer so: `diffusers`, `kohya`, or the `original` code.

    The layers at the ends of the UNet have names of one word, which tell nothing: "".

    **Arguments:**

    - `layer`: From `SpelledNames`.
    """
    _, bare = layer.split(".", 1)
    if bare in ("conv_in", "conv_out"):
        return ""
    if "." not in bare:
        return "kohya"
    is_original = re.match(r"(input_blocks|output_blocks|middle_block|out)\.", bare)
    return "original" if is_original else "diffusers"
