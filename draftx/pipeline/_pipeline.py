import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._custom_types import (
    Images,
    InputIds,
    Latents,
    NegativeInputIds,
    Prompts,
    TextEmbeddings,
)
from ..diffusion import (
    AbstractDenoiser,
    AbstractLoRASchedule,
    DDIM,
    DDIMSteps,
    Denoiser,
    SplitDenoiser,
)
from ..layers import Remat
from ..models import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTokenizer,
    map_linears,
    UNet2DConditionModel,
)
from ._learned import LearnedInputs


class Pipeline(eqx.Module):
    """A text-to-image latent diffusion model: Stable Diffusion 1.x and its relatives.

    A PyTree: `jax.tree` functions, `eqx.partition` and `eqx.tree_at` work on it.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    sampler: DDIM
    tokenizer: CLIPTokenizer = eqx.field(static=True)
    learned: LearnedInputs | None = None

    def __check_init__(self):
        features = self.text_encoder.config.hidden_size
        expected = self.unet.config.cross_attention_dim
        if features != expected:
            raise ValueError(
                "`text_encoder` must give the features that `unet` was trained on; got "
                f"hidden_size={features}, cross_attention_dim={expected}."
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latents the UNet was trained on."""
        config = self.unet.config
        return (config.sample_size, config.sample_size, config.in_channels)

    def tokenize(self, prompts: Prompts) -> InputIds:
        """Token ids of prompts; on the host, outside of `jit`."""
        return jnp.asarray(self.tokenizer(prompts))

    def embed(self, input_ids: InputIds) -> TextEmbeddings:
        """What the UNet is conditioned on."""
        return self.text_encoder(input_ids)

    def without_lora(self) -> "Pipeline":
        """The base model: the same arrays, the adapter left out."""
        return map_linears(lambda _, layer: layer.without_lora(), self)

    def denoiser(
        self,
        steps: DDIMSteps,
        input_ids: InputIds,
        negative_input_ids: NegativeInputIds | None,
        guidance_scale: Float[Array, ""] | None,
        *,
        remat: Remat = "none",
        lora_schedule: AbstractLoRASchedule | None = None,
        mesh: Mesh | None = None,
    ) -> AbstractDenoiser:
        """The UNet with its conditioning, computed once for a whole chain.

        **Arguments:**

        - `steps`: Of the chain.
        - `input_ids`: Of the prompts.
        - `negative_input_ids`: Of the empty or the negative prompts: one row for all
            images, or one for each. `None` switches guidance off.
        - `guidance_scale`: The weight $w$; `None` switches guidance off.
        - `remat`: What the backward pass computes again.
        - `lora_schedule`: When the adapter is on; `None` is always.
        - `mesh`: Devices that the batch is split over, its one axis `"data"`. `None`
            leaves that to the compiler.
        """
        if lora_schedule is not None:
            args = (steps, input_ids, negative_input_ids, guidance_scale)
            return lora_schedule(
                self.denoiser(*args, remat=remat, mesh=mesh),
                self.without_lora().denoiser(*args, remat=remat, mesh=mesh),
                len(steps),
            )
        embeddings = self.embed(input_ids)
        negative = None
        if negative_input_ids is not None and guidance_scale is not None:
            negative = self.embed(negative_input_ids)
            negative = jnp.broadcast_to(negative, embeddings.shape)
            if self.learned is not None:
                negative = self.learned.negative(negative, embeddings)
                scales = self.learned.guidance(len(steps))
                guidance_scale = guidance_scale if scales is None else scales
        denoiser = Denoiser(
            self.unet,
            steps.timestep,
            embeddings,
            negative,
            guidance_scale,
            remat=remat,
        )
        if mesh is None or mesh.size == 1:
            return denoiser
        return SplitDenoiser(denoiser, mesh)

    def decode(self, latents: Latents, *, remat: Remat = "none") -> Images:
        """Scaled latents to images in $[0, 1]$."""
        with jax.named_scope("draftx.decode"):
            return self.vae.decode(latents, remat=remat)
