"""Which layers are adapted: groups, ends of names, or a regular expression."""

import difflib
import re
from collections.abc import Collection, Sequence
from typing import Final


# Named groups of layers, as patterns of their published names.
TARGET_GROUPS: Final = {
    "self_attention": r"unet\..*\.attn1\.(to_q|to_k|to_v|to_out\.0)",
    "cross_attention": r"unet\..*\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "feed_forward": r"unet\..*\.ff\.net\.(0\.proj|2)",
    "projections": r"unet\..*\.attentions\.\d+\.(proj_in|proj_out)",
    # What LoRA of convolutions adapts in kohya's scripts and in LCM-LoRA: all but the
    # first and the last of the UNet.
    "convolutions": r"unet\..*\.(resnets\.\d+\.(conv1|conv2|conv_shortcut)"
    r"|(down|up)samplers\.0\.conv)",
    "time_embedding": r"unet\.(time_embedding\.linear_[12]|.*\.time_emb_proj)",
    "text_encoder": r"text_encoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}
# DRaFT, section 4: "cross-attention and feed-forward layers" of the UNet.
DEFAULT_TARGETS: Final = ("cross_attention", "feed_forward")


# PEFT's name of all of a model's `torch.nn.Linear`.
_ALL_LINEAR: Final = "all-linear"


def find_targets(
    targets: Sequence[str] | str, names: Sequence[str], linear: Collection[str] = ()
) -> set[str]:
    """Finds the layers that are meant, each target at least one or an error.

    PEFT's rule for `target_modules`: a string is a regular expression of whole names,
    and each item of a list a whole name or its end, from a dot on.

    **Arguments:**

    - `targets`: As `add_lora` takes them.
    - `names`: Published names of all layers, that of the model in front.
    - `linear`: Those of linear layers that files store as matrices, as PyTorch has
        them.
    """
    if len(targets) == 0:
        raise ValueError(
            "`targets` must be a non-empty sequence of names, or a regular expression; "
            f"got {targets!r}."
        )
    # No format of adapter files knows the autoencoder.
    names = [name for name in names if not name.startswith("vae.")]
    if isinstance(targets, str):
        if targets.lower() == _ALL_LINEAR:
            return _all_linear(targets, names, linear)
        return _matching(targets, names)
    chosen: set[str] = set()
    for target in targets:
        matched = {name for name in names if _matches(name, target)}
        if not matched:
            raise ValueError(
                "`targets` must each match a linear layer or a convolution; got "
                f"{target!r}, which matches none.{_suggestion(target, names)} Groups "
                f"are {sorted(TARGET_GROUPS)}; otherwise give the end of a layer's "
                "name, such as 'attn2.to_k'."
            )
        chosen |= matched
    return chosen


def _all_linear(
    targets: str, names: Sequence[str], linear: Collection[str]
) -> set[str]:
    # PEFT adapts one model; that of pipelines, as in the default here, is the UNet.
    found = {n for n in names if n in linear and not n.startswith("text_encoder.")}
    if not found:
        raise ValueError(
            f"`targets` {targets!r} must find linear layers of the UNet; there are "
            f"none among {len(names)} layers."
        )
    return found


def _matches(name: str, target: str) -> bool:
    if target in TARGET_GROUPS:
        return re.fullmatch(TARGET_GROUPS[target], name) is not None
    return name == target or name.endswith(f".{target}")


def _matching(pattern: str, names: Sequence[str]) -> set[str]:
    try:
        regex = re.compile(pattern)
    except re.error as e:
        raise ValueError(
            "`targets` that is a string must be a regular expression of layer names; "
            f"got {pattern!r}: {e}."
        ) from e
    # PEFT sees one model alone, without its name.
    both = {name: (name, name.split(".", 1)[-1]) for name in names}
    matched = {name for name in names if any(map(regex.fullmatch, both[name]))}
    if not matched:
        known = pattern in TARGET_GROUPS or any(_matches(n, pattern) for n in names)
        hint = f" Did you mean [{pattern!r}]?" if known else _suggestion(pattern, names)
        raise ValueError(
            "`targets` that is a string must match whole names of layers, as a regular "
            f"expression; got {pattern!r}, which matches none of {len(names)}.{hint} "
            f"One of the names is {names[0]!r}."
            if names
            else f"`targets` found no layers to match; got {pattern!r}."
        )
    return matched


def _suggestion(target: str, names: Sequence[str]) -> str:
    """Names that are near: layers inside of what was named, or spelled like it."""
    ends = {
        ".".join(parts[-count:]): None
        for parts in (name.split(".") for name in names)
        for count in range(1, len(parts) + 1)
    }
    if target.lower() == _ALL_LINEAR:
        return f" Did you mean the string {_ALL_LINEAR!r}, without a list around it?"
    near = [end for end in ends if end.startswith(f"{target}.")]
    if not near:
        near = difflib.get_close_matches(target, [*TARGET_GROUPS, *ends], n=3)
    return f" Did you mean {' or '.join(map(repr, near[:4]))}?" if near else ""
