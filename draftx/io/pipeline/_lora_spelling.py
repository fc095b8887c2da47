"""Layers as the tensors of a file call them, for who has no model to compare with."""

import re


_WRAPPED = re.compile(r"^((?:unet|text_encoder(?:_2)?)\.)?base_model\.model\.")
_TEXT = re.compile(
    r"text_encoder(_2)?\.|lora_te1?_|lora_te(2)_|(?=text_model[._]|encoder[._]layers[._])"
)
# What names are made of between dots. The longer is meant where both may be.
_UNET_WORDS = (
    r"(?:down|up|transformer)_blocks|mid_block|time_embedding|linear_[12]|time_emb_proj"
    r"|conv_(?:in|out|shortcut)|proj_(?:in|out)|to_(?:q|k|v|out)|attentions|resnets"
    r"|(?:down|up)samplers|attn[12]|ff|net|proj|conv[12]?|\d+"
)
_TEXT_WORDS = r"text_model|encoder|layers|self_attn|(?:q|k|v|out)_proj|mlp|fc[12]|\d+"
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
            if bare.startswith(("encoder.", "encoder_")):
                bare = f"text_model{bare[7]}{bare}"
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


def published_name(layer: str) -> str | None:
    """Finds the name of a layer as diffusers has it, without any model.

    **Arguments:**

    - `layer`: From `SpelledNames`.

    **Returns:**

    `None` if only a model can tell: where blocks are numbered as in the original code.
    """
    model, bare = layer.split(".", 1)
    words = {"unet": _UNET_WORDS, "text_encoder": _TEXT_WORDS}.get(model)
    flat = bare.replace(".", "_")
    if words is None or not re.fullmatch(rf"(?:(?:{words})(?:_(?!$)|$))+", flat):
        return None
    name = ".".join(re.findall(rf"(?:{words})(?=_|$)", flat))
    # One that has dots has them where they belong, or it is of another kind.
    return f"{model}.{name}" if bare in (flat, name) else None
