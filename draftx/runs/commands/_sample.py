"""`draftx sample`: images of prompts, as files."""

import dataclasses
import io
import pathlib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro

from ..._checks import check_whole
from ..._table import Table
from ...io.formats import write_bytes
from ...lora import scale_lora
from ...pipeline import latent_shape, Pipeline, sample, Sampling
from .._busy import Busy
from ..config import (
    check_pictures_of,
    make_drawn,
    make_prompts,
    make_sampling,
    read_prompts,
    RunConfig,
)
from ..folder import captioned_grid, check_output_dir, to_uint8, write_lines
from ._options import AbstractModelOptions, load_model, parse_with_run


_arg = tyro.conf.arg
# More are too small to be seen on one picture.
_LARGEST_GRID: Final = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(AbstractModelOptions):
    """Draws images of prompts and writes them as PNG files.

    Each image has its own noise, which follows from the seed and from its number: the
    same prompts give the same images with and without an adapter, or at another scale.
    """

    prompt: Annotated[
        tuple[str, ...],
        _arg(help="What is drawn; none: `--prompts`, or what the run drew."),
    ] = ()
    prompts: Annotated[
        str | None,
        _arg(help="A .txt, .jsonl or .csv file, or a template, 'a {animals}'."),
    ] = None
    num_images_per_prompt: Annotated[int, _arg(help="Images of each prompt.")] = 1
    lora_scale: Annotated[
        float, _arg(help="Multiplies the adapter's update; 0 is the base model.")
    ] = 1.0
    batch_size: Annotated[int, _arg(help="Images that are drawn at once.")] = 4
    output_dir: Annotated[
        str,
        _arg(
            help="For the images, `grid.png` with all of them, and `images.jsonl`, "
            "which says what each file is."
        ),
    ] = "outputs/images"


def sample_command(arguments: Sequence[str]) -> int:
    """Runs `draftx sample`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options, config = parse_with_run(SampleOptions, arguments, "sample")
    sampling = make_sampling(config)
    count = check_whole("num_images_per_prompt", options.num_images_per_prompt)
    batch_size = check_whole("batch_size", options.batch_size)
    table = _prompts(options, config)
    if options.lora is None and options.lora_scale != 1:
        raise ValueError(
            "`lora_scale` must be left out without an adapter; got "
            f"{options.lora_scale}. Name its file, `--lora`."
        )
    folder = pathlib.Path(options.output_dir)
    check_output_dir(folder)
    with Busy(f"loading {options.model}"):
        pipeline = load_model(options)
    given = "prompt" if options.prompt else "prompts"
    check_pictures_of(pipeline, table, sampling, given=given, flag="prompts")
    if options.lora is not None:
        pipeline = scale_lora(pipeline, options.lora_scale)
    table = table.take(np.repeat(np.arange(len(table)), count))
    with Busy(f"drawing {len(table)} images", "images") as busy:
        images = draw(pipeline, table, sampling, options.seed, batch_size, busy.tell)
    with Busy(f"writing {len(table)} images"):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, images, table, options.seed, count)
    print(f"{len(images)} images are in {folder}")
    return 0


def _write(
    folder: pathlib.Path, images: np.ndarray, table: Table, seed: int, count: int
) -> None:
    rows = []
    for i, (prompt, image) in enumerate(zip(table.prompts, images, strict=True)):
        name = f"{file_name(i, prompt)}.png"
        write_bytes(folder / name, _png(image, {"prompt": prompt}))
        rows.append({"file": name, "prompt": prompt, "seed": seed, "index": i})
    write_lines(folder / "images.jsonl", rows)
    _write_grid(folder / "grid.png", images, table.prompts, count)


def draw(
    pipeline: Pipeline,
    table: Table,
    sampling: Sampling,
    seed: int,
    batch_size: int,
    tell: Callable[[int, int], None],
) -> np.ndarray:
    """Draws an image of each row, a batch at a time, each from noise of its own.

    **Arguments:**

    - `pipeline`, `sampling`: As for `draftx.sample`.
    - `table`: Its rows, at least one.
    - `seed`: Of the noise, which does not depend on the size of the batches. What
        `eta` adds in the steps does.
    - `batch_size`: The last batch is filled up, so that one program draws them all.
    - `tell`: Called with how many images are drawn, and how many there will be.
    """
    key, total = jr.key(seed), len(table)
    size = min(batch_size, total)
    shape = latent_shape(pipeline, sampling)
    noise = lambda i: jr.normal(jr.fold_in(key, i), shape, jnp.float32)
    drawn = []
    for start in range(0, total, size):
        rows = np.arange(start, start + size) % total
        latents = jax.vmap(noise)(jnp.asarray(rows))
        of_steps = jr.fold_in(key, start)
        images = sample(
            pipeline, table.take(rows), sampling, key=of_steps, latents=latents
        )
        drawn.append(np.asarray(images))
        tell(min(start + size, total), total)
    return np.concatenate(drawn)[:total]


def file_name(index: int, prompt: str) -> str:
    """Makes a name of a file out of a prompt: safe on every system, and never twice.

    **Arguments:**

    - `index`: Of the image, which makes it the only one of this name.
    - `prompt`: What of it is no ASCII letter or digit becomes a hyphen.
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())
    return f"{index:05d}-{words.strip('-')[:60]}".strip("-")


def _prompts(options: SampleOptions, config: RunConfig) -> Table:
    if options.prompt and options.prompts is not None:
        raise ValueError(
            "`prompt` and `prompts` must not be given both; got "
            f"{options.prompt!r} and {options.prompts!r}."
        )
    if options.prompts is not None:
        return read_prompts(options.prompts)
    if options.prompt:
        return Table.of(list(options.prompt))
    if options.run is None:
        raise ValueError(
            "`prompt` must say what is drawn; got none. Say "
            '`--prompt "a fox, flat style"`, or name a file or template, `--prompts`.'
        )
    return make_drawn(config, make_prompts(config)[1])


def _png(image: Any, texts: Mapping[str, str]) -> bytes:
    # Comes with matplotlib, which draws the grids.
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    file = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(file, format="png", pnginfo=info)
    return file.getvalue()


def _write_grid(
    path: pathlib.Path, images: np.ndarray, prompts: Sequence[str], count: int
) -> None:
    """A row for each prompt if it has several images, else rows of eight."""
    images, prompts = images[:_LARGEST_GRID], prompts[:_LARGEST_GRID]
    columns = min(len(images), count if count > 1 else 8)
    blank = -len(images) % columns
    images = np.concatenate([images, np.ones((blank, *images.shape[1:]))])
    texts = [textwrap.fill(prompt, 22, max_lines=4) for prompt in prompts]
    texts += [""] * blank
    starts = range(0, len(images), columns)
    rows = {f"{i:05d}": images[i : i + columns] for i in starts}
    below = {f"{i:05d}": texts[i : i + columns] for i in starts}
    captioned_grid(path, rows, [""] * columns, below)
