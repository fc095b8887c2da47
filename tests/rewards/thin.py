"""Every reward on a network as small as it can be, with weights drawn by NumPy."""

import functools as ft
import pathlib
import tempfile
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from draftx.judges import (
    AestheticHead,
    BertConfig,
    BertTokenizer,
    CLIPModel,
    CLIPVisionModelWithProjection,
    ImageRewardConfig,
    ImageRewardModel,
    ObjectCounter,
    OwlViTForObjectDetection,
    PerceptualTrunk,
    ResNet,
)
from draftx.models import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    replace_parameters,
)
from draftx.rewards import (
    AestheticDropout,
    AestheticScore,
    BatchDissimilarity,
    ClassifierReward,
    CLIPScore,
    CountReward,
    DetectedCount,
    DetectionReward,
    FeatureSimilarity,
    HPSv2,
    ImageReward,
    JPEGCompressibility,
    JPEGIncompressibility,
    LPIPS,
    LPIPSSimilarity,
    PickScore,
    ReferenceSimilarity,
    ResizeAndCrop,
    RotationAntiCorrelation,
    WeightedSum,
)

from . import tiny_clip


PROMPTS = ["a bad cab", "lin", "aff fee", "a lad"]
_VISION: dict[str, Any] = dict(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
)
_TEXT: dict[str, Any] = dict(
    vocab_size=31,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=9,
)
_CLIP = CLIPConfig(
    text=CLIPTextConfig(**_TEXT),
    vision=CLIPVisionConfig(**_VISION),
    projection_dim=8,
    eos_token_id=30,
)
_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bad", "cab", "lin")


class Case(NamedTuple):
    """A reward and the images it is tried on, `size` pixels wide and high."""

    reward: Any
    size: int
    rows: Any = PROMPTS

    @property
    def features(self):
        return self.reward.prepare(self.rows)


def random_model(cls, *args, seed=0, **kwargs):
    """A network that was never computed by JAX: its arrays are NumPy's."""
    rng = np.random.default_rng(seed)
    skeleton = eqx.filter_eval_shape(ft.partial(cls, *args, **kwargs), key=jr.key(0))

    def leaf(parameter):
        shape, dtype = parameter.leaf.shape, parameter.leaf.dtype
        values = rng.normal(size=shape)
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:]))
        elif parameter.key.endswith(("weight", "running_var")):
            values = 1 + 0.1 * np.abs(values)
        else:
            values = 0.1 * values
        return jax.device_put(np.asarray(values, dtype))

    return replace_parameters(skeleton, leaf)


@ft.cache
def clip_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        tiny_clip.write_tokenizer(pathlib.Path(folder))
        return CLIPTokenizer.from_folder(folder)


@ft.cache
def bert_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocab.txt"
        path.write_text("\n".join(_PIECES) + "\n")
        return BertTokenizer.from_vocab(path, max_length=6)


def image(size):
    return jnp.asarray(np.random.default_rng(9).random((1, size, size, 3), np.float32))


def _references(size):
    shape = (len(PROMPTS), size, size, 3)
    references = np.random.default_rng(8).random(shape, np.float32)
    return {"prompt": PROMPTS, "reference": references}


def _clip(cls, seed, **options):
    return cls(random_model(CLIPModel, _CLIP, seed=seed), clip_tokenizer(), **options)


def _aesthetic():
    encoder = random_model(CLIPVisionModelWithProjection, _CLIP, seed=4)
    return AestheticScore(
        encoder, random_model(AestheticHead, 8, widths=(24, 16, 8, 4))
    )


def _image_reward():
    text = _TEXT | dict(vocab_size=len(_PIECES) + 2)
    text["max_position_embeddings"] = 6
    config = ImageRewardConfig(
        text=BertConfig(**text),
        vision=CLIPVisionConfig(**_VISION),
        head_widths=(6, 5, 4, 3),
    )
    return ImageReward(random_model(ImageRewardModel, config), bert_tokenizer())


def _detection():
    model = random_model(OwlViTForObjectDetection, _CLIP)
    return DetectionReward(model, clip_tokenizer(), ["a bad", "lin"], kind="both")


def _detected_count():
    model = random_model(OwlViTForObjectDetection, _CLIP)
    # More than it has patches: no step goes past it.
    return DetectedCount(model, clip_tokenizer(), ["a bad", "lin"], 9, threshold=0.4)


def _counter():
    return random_model(ObjectCounter, channels=(8, 16), num_blocks=1)


def _resnet():
    return random_model(
        ResNet, depths=(1, 0, 0, 0), width=4, is_bottleneck=False, num_classes=3
    )


def lpips():
    trunk = random_model(PerceptualTrunk, "alexnet", channels=(4, 5, 6, 5, 4))
    return LPIPS(trunk, tuple(jnp.ones(c) for c in trunk.channels))


_PREPROCESS = ResizeAndCrop(resize=20, crop=16)
_CASES = {
    "jpeg": lambda: (JPEGCompressibility(), 16),
    "jpeg hard_cubic": lambda: (
        JPEGIncompressibility(rounding="hard_cubic", norm="mse", factor=2.0),
        16,
    ),
    "rotation": lambda: (RotationAntiCorrelation(), 16),
    "rotation correlation": lambda: (RotationAntiCorrelation(form="correlation"), 16),
    "clip": lambda: (_clip(CLIPScore, 1), 20),
    "pickscore": lambda: (_clip(PickScore, 2), 20),
    "hpsv2": lambda: (_clip(HPSv2, 3), 20),
    "aesthetic": lambda: (_aesthetic(), 20),
    "aesthetic dropout": lambda: (
        AestheticDropout(_aesthetic(), rate=0.3, key=jr.key(5)),
        20,
    ),
    "image reward": lambda: (_image_reward(), 20),
    "detection": lambda: (_detection(), 20),
    "detected count": lambda: (_detected_count(), 20),
    "count": lambda: (CountReward(_counter(), 2), 16),
    "classifier": lambda: (ClassifierReward(_resnet(), 1, preprocess=_PREPROCESS), 20),
    "features": lambda: (
        FeatureSimilarity(_resnet().features, image(20), preprocess=_PREPROCESS),
        20,
    ),
    "lpips": lambda: (LPIPSSimilarity(lpips(), image(32)), 32),
    "dissimilarity": lambda: (BatchDissimilarity(), 16),
    "own reference": lambda: (ReferenceSimilarity(), 16, _references(16)),
    "sum": lambda: (
        WeightedSum([_clip(CLIPScore, 1), RotationAntiCorrelation()], [2.0, -0.5]),
        20,
    ),
}
NAMES = tuple(_CASES)
# They look at no prompt.
PROMPTED = ("clip", "pickscore", "hpsv2", "image reward", "sum")
# The one that looks at images together.
TOGETHER = ("dissimilarity",)


@ft.cache
def case(name) -> Case:
    return Case(*_CASES[name]())
