import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray

from ..._custom_types import Latents, TextEmbeddings
from ..._scaled_gradient import scaled_gradient
from ...kernels import target_device
from ...layers import (
    AbstractConv2d,
    checkpoint_if,
    Conv2d,
    GroupNorm,
    match_batch,
    Remat,
    sinusoidal_embedding,
    TimestepEmbedding,
)
from ._blocks import (
    BlockConditioning,
    DownBlock,
    MidBlock,
    TextContext,
    TimeShifts,
    UpBlock,
)
from ._config import UNetConfig
from ._transformer import Transformer2D


class UNet2DConditionModel(eqx.Module):
    """Predicts from noised latents and a text: the UNet of Stable Diffusion 1 and 2.

    ??? cite

        [High-Resolution Image Synthesis with Latent Diffusion Models](
        https://arxiv.org/abs/2112.10752)
    """

    conv_in: AbstractConv2d
    time_embedding: TimestepEmbedding
    down_blocks: list[DownBlock]
    mid_block: MidBlock
    up_blocks: list[UpBlock]
    conv_norm_out: GroupNorm
    conv_out: AbstractConv2d
    config: UNetConfig = eqx.field(static=True)

    def __init__(
        self,
        config: UNetConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        channels = config.block_out_channels
        ikey, tkey, dkey, mkey, ukey, okey = jr.split(key, 6)
        self.conv_in = Conv2d(config.in_channels, channels[0], dtype=dtype, key=ikey)
        self.time_embedding = TimestepEmbedding(
            channels[0], 4 * channels[0], dtype=dtype, key=tkey
        )
        self.down_blocks = [
            DownBlock(level, config, dtype=dtype, key=k)
            for level, k in enumerate(jr.split(dkey, len(channels)))
        ]
        self.mid_block = MidBlock(config, dtype=dtype, key=mkey)
        self.up_blocks = [
            UpBlock(index, config, dtype=dtype, key=k)
            for index, k in enumerate(jr.split(ukey, len(channels)))
        ]
        self.conv_norm_out = GroupNorm(
            channels[0],
            num_groups=config.norm_num_groups,
            epsilon=config.norm_eps,
            dtype=dtype,
        )
        self.conv_out = Conv2d(channels[0], config.out_channels, dtype=dtype, key=okey)
        self.config = config

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the frozen weights, in which activations are computed."""
        return self.conv_in.dtype

    def __call__(
        self,
        latents: Latents,
        timesteps: Num[Array, " batch"],
        text_embeddings: TextEmbeddings,
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, "text_batch height width out_channels"]:
        """Predicts for noised latents `[batch, height, width, in_channels]`.

        **Arguments:**

        - `latents`: Noised latents; height and width multiples of
            `config.downsampling_factor`.
        - `timesteps`: Training timesteps, one for each image.
        - `text_embeddings`: Last hidden states of the text encoder.
        - `remat`: What the backward pass computes again: see `denoise`.

        **Returns:**

        The prediction (noise, velocity or sample, as the model was trained), in the
        dtype of the weights; float32 for float16 (see `scaled_gradient`).
        """
        return self.denoise(
            latents,
            self.time_shifts(timesteps),
            self.text_context(text_embeddings),
            remat=remat,
        )

    @jax.named_scope("draftx.unet.time_shifts")
    @scaled_gradient
    def time_shifts(self, timesteps: Num[Array, " rows"]) -> list[TimeShifts]:
        """Computes what every block is told of the time, a row for each timestep.

        Depends on nothing else, so a chain computes it once for all of its steps.
        """
        config = self.config
        emb = sinusoidal_embedding(
            timesteps,
            config.block_out_channels[0],
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        emb = self.time_embedding(emb.astype(self.dtype))
        return [[r.time_shift(emb) for r in block.resnets] for block in self.blocks]

    @jax.named_scope("draftx.unet.text_context")
    @scaled_gradient
    def text_context(self, text_embeddings: TextEmbeddings) -> list[TextContext]:
        """Computes what every block is told of the text, the same at every step."""
        text_embeddings = text_embeddings.astype(self.dtype)
        call = checkpoint_if(False, Transformer2D.text_context)
        return [
            [call(attention, text_embeddings) for attention in block.attentions or []]
            for block in self.blocks
        ]

    @jax.named_scope("draftx.unet")
    @scaled_gradient
    def denoise(
        self,
        latents: Latents,
        time_shifts: list[TimeShifts],
        text_context: list[TextContext],
        *,
        remat: Remat = Remat.NONE,
        num_references: int = 0,
    ) -> Float[Array, "text_batch height width out_channels"]:
        """Predicts from what `time_shifts` and `text_context` give.

        **Arguments:**

        - `latents`: Noised latents. Their batch may divide that of the text: what comes
            before the first cross-attention is then computed once for all the texts of
            an image, which follow one another in `text_context`.
        - `time_shifts`: One row for all images, or one for each.
        - `text_context`: One row for each prediction.
        - `remat`: What the backward pass computes again. `"ff"`: the feed-forward
            layers. `"block"`: the transformers; residual blocks keep the input of
            their norms. `"nested"`: transformers and residual blocks. `"step"`, for a
            call that is itself computed again, is `"nested"` where the maps are
            largest, in the first down block.
        - `num_references`: So many of the last rows of the latents are references: in
            every self-attention the other rows attend to the tokens of one besides
            their own, as many rows to each, one after the other. Every row has a text
            of its own then.
        """
        if num_references:
            _check_references(num_references, latents, text_context)
        lower = lambda x: x.astype(self.dtype)  # From the float32 that holds float16.
        given = jax.tree.map(lower, (time_shifts, text_context))
        parts = [
            BlockConditioning(shifts, context, num_references)
            for shifts, context in zip(*given, strict=True)
        ]
        down, middle = parts[: len(self.down_blocks)], parts[len(self.down_blocks)]
        up = parts[len(self.down_blocks) + 1 :]
        x, texts = latents.astype(self.dtype), jax.tree.leaves(text_context)
        if texts and target_device().platform == "tpu":
            # There putting copies side by side costs more, of maps with many channels,
            # than it saves.
            x = match_batch(x, texts[0].shape[0])
        x = self.conv_in(x)
        skips = [x]
        for i, (block, part) in enumerate(zip(self.down_blocks, down, strict=True)):
            tier = remat if i else remat.where_largest
            x, new_skips = block(x, part, remat=tier)
            skips.extend(new_skips)
        x = self.mid_block(x, middle, remat=remat)
        for block, part in zip(self.up_blocks, up, strict=True):
            used = [skips.pop() for _ in block.resnets]
            x = block(x, used, part, remat=remat)
        return self.conv_out(self.conv_norm_out(x, silu=True))

    def with_more_channels(self, count: int) -> "UNet2DConditionModel":
        """Makes the same model with more input channels, after those that it has.

        Their weights are zeros: what the channels hold changes nothing.

        **Arguments:**

        - `count`: How many.
        """
        first = self.conv_in
        if not isinstance(first, Conv2d):
            raise ValueError(
                "`conv_in` of the UNet must be a plain Conv2d for channels to be "
                f"added; it is a {type(first).__name__}. Merge its adapter into the "
                "weights (`draftx.merge_lora`), or put one on afterwards."
            )
        in_channels = self.config.in_channels + count
        config = dataclasses.replace(self.config, in_channels=in_channels)
        # Of the new size; layers are handed on as they are, adapters included.
        model = eqx.filter_eval_shape(UNet2DConditionModel, config, key=jr.key(0))
        weight = jnp.pad(first.weight, ((0, 0), (0, 0), (0, count), (0, 0)))
        rest = lambda m: (
            m.conv_in.bias,
            m.time_embedding,
            m.down_blocks,
            m.mid_block,
            m.up_blocks,
            m.conv_norm_out,
            m.conv_out,
        )
        return eqx.tree_at(
            lambda m: (m.conv_in.weight, *rest(m)), model, (weight, *rest(self))
        )

    @property
    def blocks(self) -> list[DownBlock | MidBlock | UpBlock]:
        """All blocks, in the order that they are called in."""
        return [*self.down_blocks, self.mid_block, *self.up_blocks]


def _check_references(
    num_references: int, latents: Latents, text_context: list[TextContext]
) -> None:
    rows = latents.shape[0]
    texts = {x.shape[0] for x in jax.tree.leaves(text_context)}
    images = rows - num_references
    if images < 1 or images % num_references or texts - {rows}:
        raise ValueError(
            "`num_references` must divide the rows before them, each with one text; "
            f"got {num_references} of {rows} rows, and {sorted(texts)} texts."
        )
