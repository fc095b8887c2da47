import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Num, PRNGKeyArray

from .._custom_types import Images, InputIds, Latents, Prompts, TextEmbeddings
from .._scaled_gradient import scaled_call
from ..diffusion import (
    AbstractDenoiser,
    AbstractLoRASchedule,
    AbstractSampler,
    Chain,
    Denoiser,
    ImagePrompt,
    Reference,
    SplitDenoiser,
)
from ..layers import Remat
from ..lora import without_lora
from ..models import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTokenizer,
    UNet2DConditionModel,
)
from ._batch import Conditioning
from ._learned import LearnedInputs
from ._plan import Plan


class Pipeline(eqx.Module):
    """Holds a text-to-image latent diffusion model, such as Stable Diffusion 1.x.

    A PyTree: `jax.tree` functions, `eqx.partition` and `eqx.tree_at` work on it.

    **Arguments:**

    - `unet`: Predicts at each step.
    - `vae`: Makes images of latents.
    - `text_encoder`: Embeds token ids.
    - `sampler`: Used unless `Sampling` has one.
    - `tokenizer`: Makes token ids of prompts.
    - `learned`: Inputs that are trained (`draftx.add_learned_inputs`); `None`: there
        are none.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    sampler: AbstractSampler
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
        latent, config = self.vae.config.latent_channels, self.unet.config
        if config.in_channels < latent or config.out_channels != latent:
            raise ValueError(
                "`unet` must take at least the channels of the latents of `vae` and "
                f"predict just these, {latent}; got in_channels={config.in_channels}, "
                f"out_channels={config.out_channels}."
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latents that the model was trained on."""
        return (*self.unet.config.latent_size, self.vae.config.latent_channels)

    @property
    def conditioning_channels(self) -> int:
        """How many channels the UNet sees beside the latents; 0 for text alone."""
        return self.unet.config.in_channels - self.vae.config.latent_channels

    def tokenize(self, prompts: Prompts) -> InputIds:
        """Makes token ids of prompts; on the host, outside of `jit`."""
        return jnp.asarray(self.tokenizer(prompts))

    def embed(
        self, input_ids: InputIds, known: TextEmbeddings | None = None
    ) -> TextEmbeddings:
        """Encodes tokens as what the UNet is conditioned on.

        **Arguments:**

        - `input_ids`: Of some texts.
        - `known`: What the text encoder made of them, which is then not asked again.
        """
        if known is None:
            return scaled_call(self.text_encoder, input_ids)
        # As `scaled_call` gives it, so that gradients are not rounded to float16 here.
        return known.astype(jnp.float32) if known.dtype == jnp.float16 else known

    def without_lora(self) -> "Pipeline":
        """Makes the base model: the same arrays, the adapter left out."""
        return without_lora(self)

    def chain(
        self,
        plan: Plan,
        conditioning: Conditioning,
        *,
        key: PRNGKeyArray | None = None,
        remat: Remat = Remat.NONE,
        mesh: Mesh | None = None,
    ) -> Chain:
        """Makes the chain that samples a batch: sampler, model and steps.

        **Arguments:**

        - `plan`: The options of sampling, from `make_plan`.
        - `conditioning`: Of the images, one row each.
        - `key`: Draws the noise of the steps, if they add any.
        - `remat`: What the backward pass computes again.
        - `mesh`: Devices that the batch is divided over. `None`
            leaves that to the compiler.
        """
        steps = plan.steps()
        denoiser = self.denoiser(
            steps.timestep,
            conditioning,
            plan.guidance_scale,
            remat=remat,
            lora_schedule=plan.lora_schedule,
            mesh=mesh,
        )
        return Chain(plan.sampler, denoiser, steps, key if plan.is_random else None)

    def denoiser(
        self,
        timesteps: Num[Array, " steps"],
        conditioning: Conditioning,
        guidance_scale: Float[Array, ""] | None,
        *,
        remat: Remat = Remat.NONE,
        lora_schedule: AbstractLoRASchedule | None = None,
        mesh: Mesh | None = None,
        reference: Reference | None = None,
        image_prompt: ImagePrompt | None = None,
    ) -> AbstractDenoiser:
        """Makes the UNet ready with its conditioning, computed once for a whole chain.

        **Arguments:**

        - `timesteps`: Of the chain, noisiest first.
        - `conditioning`: Of the images. Without negative ones guidance is off.
        - `guidance_scale`: The weight $w$; `None` switches guidance off.
        - `remat`: What the backward pass computes again.
        - `lora_schedule`: When the adapter is on; `None` is always.
        - `mesh`: As for `chain`.
        - `reference`: Pictures that the images attend to, on one device. The last rows
            of the conditioning are theirs, and guidance must be off.
        - `image_prompt`: Pictures whose tokens the images attend to beside the text,
            one for each image, on one device.
        """
        if lora_schedule is not None:

            def make(pipeline: Pipeline) -> AbstractDenoiser:
                return pipeline.denoiser(
                    timesteps,
                    conditioning,
                    guidance_scale,
                    remat=remat,
                    mesh=mesh,
                    reference=reference,
                    image_prompt=image_prompt,
                )

            both = make(self), make(self.without_lora())
            return lora_schedule(*both, timesteps.shape[0])
        embeddings = self.embed(conditioning.input_ids, conditioning.embeddings)
        negative, negative_ids = None, conditioning.negative_input_ids
        if negative_ids is not None and guidance_scale is not None:
            negative = self.embed(negative_ids, conditioning.negative_embeddings)
            negative = jnp.broadcast_to(negative, embeddings.shape)
            if self.learned is not None:
                negative = self.learned.negative(negative, embeddings)
                scales = self.learned.guidance(timesteps.shape[0])
                guidance_scale = guidance_scale if scales is None else scales
        denoiser = Denoiser(
            self.unet,
            timesteps,
            embeddings,
            negative,
            guidance_scale,
            channels=conditioning.channels,
            reference=reference,
            image_prompt=image_prompt,
            remat=remat,
        )
        if mesh is None or mesh.size == 1:
            return denoiser
        return SplitDenoiser(denoiser, mesh)

    @jax.named_scope("draftx.decode")
    def decode(self, latents: Latents, *, remat: Remat = Remat.NONE) -> Images:
        """Decodes scaled latents to images in $[0, 1]$.

        **Arguments:**

        - `latents`: Scaled, channels last.
        - `remat`: What the backward pass computes again.
        """
        return self.vae.decode(latents, remat=remat)
