"""Training of what makes tokens of a picture, with all else frozen."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_is, check_pictures, check_whole
from .._custom_types import WholeLike
from .._keys import check_key
from .._table import Rows, Table
from ..episodes import Budget
from ..finetuning.training import (
    adamw,
    as_optimizer,
    Callback,
    check_callbacks,
    Kind,
    Optimizer,
    ProgressBar,
    Run,
    Stopping,
    to_default_device,
)
from ..io.checkpoints import check_checkpoints, Checkpoints, describe
from ..models import ImageTokens
from ..pipeline import check_channels, latent_shape, Pipeline, Sampling
from ._descent import descend
from ._task import check_pipeline
from ._token_loss import make_examples, new_tokens, TokenLoss
from ._token_prompt import Embed, embed_pictures


@dataclasses.dataclass(frozen=True)
class TokensFit:
    """Holds what `fit_image_tokens` returns.

    - `tokens`: For `TokenPrompt` and `draftx.io.save_image_tokens`.
    - `history`: One dictionary of plain numbers for each step.
    - `stopped`: Why it ended before its last step, or `None`.
    """

    tokens: ImageTokens
    history: list[dict[str, Any]]
    stopped: str | None = None


def fit_image_tokens(
    pipeline: Pipeline,
    embed: Embed,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray,
    num_train_steps: WholeLike,
    images: Any = None,
    num_images: WholeLike = 256,
    batch_size: WholeLike = 16,
    tokens: ImageTokens | None = None,
    optimizer: Optimizer = adamw(learning_rate=1e-4, weight_decay=0.01),
    callbacks: Sequence[Callback] = (ProgressBar(name="fitting tokens"),),
    checkpoints: Checkpoints | None = None,
) -> TokensFit:
    r"""Trains tokens of pictures: the model learns to draw what an embedding says.

    Every step noises some pictures and lowers the loss that the model itself was
    trained with, told the picture besides the text,

    $$\mathbb{E}_{x_0, \epsilon, t}\bigl[\lVert \epsilon - \epsilon_\theta(x_t, t, c,
      f(x_0)) \rVert^2\bigr],$$

    or that of its own prediction type, by what makes tokens, keys and values of the
    embedding $f(x_0)$ alone. Of twenty pictures one is without its text, one without
    its embedding, which is then zero, and one without both. The keys and values begin
    as those of the text.

    **Arguments:**

    - `pipeline`: The model, a constant; its adapter, if it has one, is on.
    - `embed`: Embeds images `[pictures, height, width, 3]` in $[0, 1]$ as `[pictures,
        embedding]`: a function, or an `equinox.Module` with arrays of its own, such as
        the image tower of a CLIP behind its preprocessing.
    - `prompts`: Of the pictures, as for `draftx.sample`; for those that are drawn in
        their order, over and over.
    - `sampling`: How pictures are drawn, and their size.
    - `key`: Draws pictures, times and noise, and the tokens before training.
    - `num_train_steps`: At least 1.
    - `images`: `[batch, height, width, 3]` in $[0, 1]$, one for each row of `prompts`,
        instead of those that the model draws.
    - `num_images`: How many are drawn.
    - `batch_size`: Of both, pictures that are drawn and training steps.
    - `tokens`: To begin with; `None` is 4 new ones. Others are made by
        `draftx.models.ImageTokens`.
    - `optimizer`: Any of optax. The default is IP-Adapter's, for very many steps.
    - `callbacks`: Each called after every step with the row of the history and the
        tokens as they are then. `()` is silent.
    - `checkpoints`: Where it is saved, and goes on from when it is called again;
        `None` is nowhere. Pictures are drawn anew, the same ones.

    **Returns:**

    The tokens and the history. A row of it has `step`, `loss`, `gradient_norm`,
    `learning_rate` (if the optimizer injects it), `skipped`, and the numbers of a
    [`draftx.Budget`][] summed over the steps, without those of drawing.

    Raises a `ValueError` that names the argument before any long work.

    ??? cite

        [IP-Adapter](https://arxiv.org/abs/2308.06721), section 3.2 and, for the
        hyper-parameters, 4.1.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_pipeline(pipeline)
    key, table = check_key(key), Table.of(prompts)
    num_train_steps = check_whole("num_train_steps", num_train_steps)
    num_images = check_whole("num_images", num_images)
    batch_size = check_whole("batch_size", batch_size)
    optimizer = as_optimizer(optimizer)
    check_callbacks(callbacks)
    check_checkpoints(checkpoints)
    check_channels(pipeline, table, (len(table), *latent_shape(pipeline, sampling)))
    side = _size(pipeline, sampling)
    if images is not None:
        images = _check_images(images, (len(table), *side, 3))
        num_images = len(images)
    # One picture says what the others will be, before any is drawn.
    trial = jnp.full((1, *side, 3), 0.5, jnp.float32)
    features = embed_pictures(embed, trial).shape[1]
    keys = jax.random.split(key, 3)
    start = _start(pipeline, tokens, features, keys[0])
    facts = None
    if checkpoints is not None:
        options = dict(
            embed=embed,
            sampling=sampling,
            images=images,
            num_images=num_images,
            batch_size=batch_size,
            tokens=tokens,
            optimizer=optimizer,
        )
        facts = describe("fit_image_tokens", pipeline, table, key, options)
    rows = table.take([i % len(table) for i in range(num_images)])
    loss = make_examples(
        pipeline, embed, rows, sampling, images=images, key=keys[1], size=batch_size
    )
    objective = _Objective(dataclasses.replace(loss, key=keys[2]), batch_size)
    run = Run(
        whole=to_default_device,
        num_train_steps=num_train_steps,
        evaluation=None,
        stopping=Stopping(),
        cost=Budget(unet_forwards=batch_size, unet_backwards=batch_size),
        callbacks=callbacks,
        checkpoints=checkpoints,
        facts=facts,
        kind=Kind(_result, "The loss"),
    )
    return descend(objective, start, optimizer, run)


class _Objective(eqx.Module):
    """The loss of some of the pictures."""

    loss: TokenLoss
    batch_size: int = eqx.field(static=True)

    def __call__(
        self, trainable: ImageTokens, step: Int[Array, ""]
    ) -> tuple[dict[str, Any], Any, Any]:
        loss = lambda tokens: self.loss(tokens, step, self.batch_size)
        value, gradient = jax.value_and_grad(loss)(trainable)
        return {"loss": value}, value, gradient


def _result(
    tokens: ImageTokens,
    history: list[dict[str, Any]],
    evaluations: Sequence[dict[str, Any]] = (),
    step: int | None = None,
    stopped: str | None = None,
) -> TokensFit:
    """Makes the result of a run, which has no evaluations."""
    del evaluations, step
    return TokensFit(tokens, history, stopped)


def _size(pipeline: Pipeline, sampling: Sampling) -> tuple[int, int]:
    """Height and width of pictures in pixels."""
    height, width, _ = latent_shape(pipeline, sampling)
    factor = pipeline.vae.config.downsampling_factor
    return factor * height, factor * width


def _check_images(
    images: Any, wanted: tuple[int, ...]
) -> Float[np.ndarray, "rows height width 3"]:
    if np.shape(images) != wanted:
        raise ValueError(
            "`images` must have one image for each row of `prompts`, of the size that "
            f"is drawn: (rows, height, width, 3) = {wanted}; got {np.shape(images)}."
        )
    return check_pictures("images", images)


def _start(
    pipeline: Pipeline, tokens: ImageTokens | None, features: int, key: PRNGKeyArray
) -> ImageTokens:
    if tokens is None:
        return new_tokens(pipeline, features, key)
    check_is("tokens", tokens, ImageTokens, "fit_image_tokens(...).tokens")
    tokens.check(pipeline.unet.config)
    if tokens.embedding_features != features:
        raise ValueError(
            f"`tokens` must take the {features} features that `embed` gives; got "
            f"{tokens.embedding_features}."
        )
    return tokens
