"""How well an image shows its prompt, as CLIP sees it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import finite
from ..._custom_types import Images, Real, RealLike
from ..._table import Rows, Table
from ...judges import CLIPModel, OpenCLIPTokenizer
from ...layers import Remat
from ...models import CLIPTokenizer
from .._preprocess import clip_preprocess, hps_preprocess, Pixels
from ..contract import AbstractReward
from ._similarity import check_tokenizer, cosine, text_embeddings


class AbstractCLIPReward(AbstractReward):
    """Scores an image by the cosine between CLIP's embeddings of it and its prompt.

    `model` and `tokenizer` are of one CLIP; `remat` is the tier of rematerialisation of
    its layers.
    """

    model: eqx.AbstractVar[CLIPModel]
    tokenizer: eqx.AbstractVar[CLIPTokenizer]
    remat: eqx.AbstractVar[Remat]

    def __check_init__(self):
        check_tokenizer(self.tokenizer, self.model)

    def prepare(self, rows: Rows) -> Float[Array, "rows embedding"]:
        prompts = Table.of(rows).prompts
        return text_embeddings(self.model, self.tokenizer, prompts)

    def _cosine(self, pixels: Pixels, features: Any) -> Float[Array, " batch"]:
        name = type(self).__name__
        return cosine(self.model, pixels, features, remat=self.remat, name=name)


class CLIPScore(AbstractCLIPReward):
    r"""Scores images by the cosine of CLIP's embeddings of an image and its prompt.

    $$r(x, p) = s \cos\big(f_\mathrm{image}(x),\, f_\mathrm{text}(p)\big) \in [-s, s]$$

    With ViT-L/14 and $s = 1$, images and prompts that match score about 0.2 to 0.35.
    `scale` is $s$; 100 is for scores as percentages.

    Images are resized, bicubic and antialiased, to 224 pixels along the shortest edge,
    cropped in the middle and normalized by CLIP's mean and deviation.

    !!! info

        `draftx.rewards.load("clip")` reads `model.safetensors` of
        `openai/clip-vit-large-patch14` at revision `32bd64288804`. License: MIT.

    ??? cite

        [CLIPScore](https://arxiv.org/abs/2104.08718), without its factor of 2.5 and
        without its maximum with zero, where there would be no gradient.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer = eqx.field(static=True)
    scale: Real = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        scale: RealLike = 1.0,
        remat: Remat | str = Remat.BLOCK,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.scale = finite("scale", scale)
        self.remat = Remat(remat)

    __init__.__doc__ = """**Arguments:**

    - `model`, `tokenizer`: Of one CLIP.
    - `scale`: $s$, which the cosine is multiplied by.
    - `remat`: The tier of rematerialisation, a [`draftx.layers.Remat`][] or its name:
        whether the backward pass computes the layers of CLIP again.
    """

    def preprocess(self, images: Images) -> Pixels:
        """Makes of images in $[0, 1]$ what the image tower of `model` takes.

        **Arguments:**

        - `images`: Channels last.
        """
        return clip_preprocess(images, self.model.config.vision.image_size)

    @jax.named_scope("draftx.rewards.CLIPScore")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return self.scale * self._cosine(self.preprocess(images), features)


class PickScore(AbstractCLIPReward):
    r"""Scores images by a CLIP ViT-H/14 trained on which of two people preferred.

    $$r(x, p) = s \cos\big(f_\mathrm{image}(x),\, f_\mathrm{text}(p)\big)$$

    where $s$ is `scale`, and by default (`None`) `exp(logit_scale)` of the checkpoint,
    about 100: scores are around 20, and $r(x_1, p) - r(x_2, p)$ is the logit of $x_1$
    being preferred to $x_2$. With `scale=1` the score is the cosine, and its gradient
    as much smaller.

    Images are preprocessed as for [`draftx.rewards.CLIPScore`][].

    !!! info

        `draftx.rewards.load("pickscore")` reads `model.safetensors` of
        `yuvalkirstain/PickScore_v1` at revision `a4e4367c6dfa`. License: MIT, that of
        its code; the weights are published without one of their own.

    ??? cite

        [Pick-a-Pic](https://arxiv.org/abs/2305.01569), section 4.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer = eqx.field(static=True)
    scale: Real | None = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        scale: RealLike | None = None,
        remat: Remat | str = Remat.BLOCK,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.scale = None if scale is None else finite("scale", scale)
        self.remat = Remat(remat)

    __init__.__doc__ = """**Arguments:**

    - `model`, `tokenizer`: Of one CLIP.
    - `scale`: $s$, which the cosine is multiplied by. `None` is that of the checkpoint.
    - `remat`: The tier of rematerialisation, a [`draftx.layers.Remat`][] or its name:
        whether the backward pass computes the layers of CLIP again.
    """

    @jax.named_scope("draftx.rewards.PickScore")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        pixels = clip_preprocess(images, self.model.config.vision.image_size)
        score = self._cosine(pixels, features)
        if self.scale is None:
            return jnp.exp(self.model.logit_scale.astype(jnp.float32)) * score
        return self.scale * score


class HPSv2(AbstractCLIPReward):
    r"""Scores images by a CLIP ViT-H/14 trained on people's rankings; 2 and 2.1.

    $$r(x, p) = \cos\big(f_\mathrm{image}(x),\, f_\mathrm{text}(p)\big) \in [-1, 1]$$

    Generated images score about 0.2 to 0.35; scores of version 2 and of version 2.1
    are not comparable.

    Images are resized, bicubic, to 224 pixels along the longest edge, padded with black
    to a square, and normalized by CLIP's mean and deviation. Prompts are read as by
    open_clip, see [`draftx.judges.OpenCLIPTokenizer`][]: `cats &amp; dogs` is
    `cats & dogs`, and a curly apostrophe a straight one.

    !!! info

        The published code resizes tensors, and whether that is antialiased depended on
        the version of torchvision. It is here, and is by default in torchvision since
        0.17; scores computed with older ones differ.

        `draftx.rewards.load("hpsv2")` and `"hpsv2.1"` read `HPS_v2_compressed.pt` and
        `HPS_v2.1_compressed.pt` of `xswu/HPSv2` at revision `697403c78157`. License:
        Apache 2.0.

    ??? cite

        [Human Preference Score v2](https://arxiv.org/abs/2306.09341), section 4.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer = eqx.field(static=True)
    reader: OpenCLIPTokenizer = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        remat: Remat | str = Remat.BLOCK,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.reader = OpenCLIPTokenizer(tokenizer)
        self.remat = Remat(remat)

    __init__.__doc__ = """**Arguments:**

    - `model`, `tokenizer`: Of one CLIP. Of the tokenizer it is the vocabulary that
        counts.
    - `remat`: The tier of rematerialisation, a [`draftx.layers.Remat`][] or its name:
        whether the backward pass computes the layers of CLIP again.
    """

    def prepare(self, rows: Rows) -> Float[Array, "rows embedding"]:
        return text_embeddings(self.model, self.reader, Table.of(rows).prompts)

    @jax.named_scope("draftx.rewards.HPSv2")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        pixels = hps_preprocess(images, self.model.config.vision.image_size)
        return self._cosine(pixels, features)
