"""Which images people prefer for a prompt, read by BLIP."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..._custom_types import Images, InputIds
from ..._table import Rows, Table
from ...judges import BertTokenizer, ImageRewardModel
from ...layers import Remat
from .._preprocess import blip_preprocess
from ..contract import AbstractReward


# Of the ratings that the published model gave its authors' images.
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072


class PromptTokens(NamedTuple):
    """Holds prompts as numbers.

    **Fields:**

    - `input_ids`: Of one length, padded at the end.
    - `lengths`: How many of each row are no padding.
    """

    input_ids: InputIds
    lengths: Int[Array, " batch"]


class ImageReward(AbstractReward):
    r"""Rates images by a BLIP trained on which ones people ranked higher for a prompt.

    $$r(x, p) = \frac{f(x, p) - 0.16717}{1.03334}$$

    About 0 on average and 1 in deviation over generated images, most of them between
    -2 and 2; not bounded. $f(x_1, p) - f(x_2, p)$ is the logit of $x_1$ being ranked
    above $x_2$.

    Images are resized, bicubic and antialiased, to 224 pixels along the shortest edge,
    cropped in the middle and normalized by CLIP's mean and deviation.

    !!! info

        `draftx.rewards.load("imagereward")` reads `ImageReward.pt` of
        `zai-org/ImageReward`, once `THUDM/ImageReward`, and `vocab.txt` of
        `google-bert/bert-base-uncased`. License of both: Apache 2.0.

        Prompts are cut after 35 tokens, as in the published code.

    ??? cite

        [ImageReward](https://arxiv.org/abs/2304.05977), section 2.3.
    """

    model: ImageRewardModel
    tokenizer: BertTokenizer = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        model: ImageRewardModel,
        tokenizer: BertTokenizer,
        *,
        remat: Remat | str = Remat.BLOCK,
    ):
        """**Arguments:**

        - `model`, `tokenizer`: Of one ImageReward.
        - `remat`: The tier of rematerialisation, a [`draftx.layers.Remat`][] or its
            name: whether the backward pass computes the layers of BLIP again.
        """
        config = model.config.text
        got = (tokenizer.vocab_size, tokenizer.max_length)
        vocab_size, most = config.vocab_size, config.max_position_embeddings
        if got[0] != vocab_size or got[1] > most:
            raise ValueError(
                f"`tokenizer` must have the model's {vocab_size} ids and give at most "
                f"{most} in a row; got {got[0]} and {got[1]}. ImageReward's is made of "
                "the vocab.txt of `google-bert/bert-base-uncased`."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.remat = Remat(remat)

    def prepare(self, rows: Rows) -> PromptTokens:
        input_ids, lengths = self.tokenizer(Table.of(rows).prompts)
        return PromptTokens(jnp.asarray(input_ids), jnp.asarray(lengths))

    @jax.named_scope("draftx.rewards.ImageReward")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        pixels = blip_preprocess(images, self.model.config.vision.image_size)
        if not isinstance(features, PromptTokens):
            got = "None" if features is None else f"a {type(features).__name__}"
            raise ValueError(
                "`features` must be what `ImageReward.prepare` gives, which scores "
                f"images by their prompts; got {got}. Call "
                "`reward(images, reward.prepare(rows))`."
            )
        if features.input_ids.shape[0] != images.shape[0]:
            raise ValueError(
                f"`features` must have one row for each of the {images.shape[0]} "
                f"images; got {features.input_ids.shape[0]}. `ImageReward.prepare` "
                "gives one row for each prompt."
            )
        rating = self.model(
            pixels, features.input_ids, features.lengths, remat=self.remat
        )
        return (rating - _MEAN) / _STD
