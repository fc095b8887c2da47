"""Build the sprites that the embedded tiny model learns from: a `.npz` file.

They are three sets of emoji with free licences: Fluent emoji (3d, flat) by Microsoft,
and Noto emoji by Google. The npm client fetches them, in exact versions.

    python weights/sprites.py --out weights/cache/sprites.npz
"""

import argparse
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

import numpy as np
import resvg_py
from PIL import Image
from scenes import ANIMALS, SIZE
from tqdm import tqdm


NAMES_PACKAGE = "emojibase-data@17.0.0"  # MIT
# Style, package, licence of the drawings.
STYLE_PACKAGES = (
    (
        "3d",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "MIT (Microsoft fluentui-emoji; packaged by LobeHub, MIT)",
    ),
    (
        "flat",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "MIT (Microsoft fluentui-emoji)",
    ),
    (
        "noto",
        "@iconify-json/noto@1.2.9",
        "Apache-2.0 (Google noto-emoji)",
    ),
)
GROUPS = (
    "smileys-emotion",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
)
# Globes, clock faces and most moons: too many that differ by little.
LEFT_OUT_SUBGROUPS = ("place-map", "hotel", "time")
LEFT_OUT_LABELS = (
    "moon cake",
    "moon viewing ceremony",
    "new moon",
    "waxing crescent moon",
    "first quarter moon",
    "waxing gibbous moon",
    "waning gibbous moon",
    "last quarter moon",
    "waning crescent moon",
)
# Names that are plainer than the label.
RENAMED = {
    "ewe": "sheep",
    "honeybee": "bee",
    "lady beetle": "ladybug",
    "spouting whale": "whale",
    "two-hump camel": "camel",
}
# Sprites of an animal beside those of its name and of "NAME face".
MORE_SPRITES = {
    "black bird": "bird",
    "black cat": "cat",
    "chipmunk": "squirrel",
    "guide dog": "dog",
    "ladybug": "beetle",
    "poodle": "dog",
    "ram": "sheep",
    "rooster": "chicken",
    "tropical fish": "fish",
}
RENDER_SIZE = 256


def fetch(package):
    """The files of an npm package.

    **Arguments:**

    - `package`: `NAME@VERSION`.

    **Returns:**

    A dictionary from paths inside the package to bytes.
    """
    if shutil.which("npm") is None:
        raise RuntimeError(
            f"`npm` must be on the path to fetch {package}; got none. "
            "It comes with Node.js."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", package]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        archives = list(pathlib.Path(folder).glob("*.tgz"))
        if result.returncode != 0 or len(archives) != 1:
            raise RuntimeError(
                f"`npm pack` must bring {package}; got exit status "
                f"{result.returncode}:\n{result.stderr.strip()}"
            )
        with tarfile.open(archives[0]) as archive:
            return {
                member.name.removeprefix("package/"): archive.extractfile(member).read()
                for member in archive
                if member.isfile()
            }


def concepts():
    """What there is to draw, in Unicode's order.

    **Returns:**

    A list of dictionaries with the text columns of the file, but for the style's.
    """
    files = fetch(NAMES_PACKAGE)
    meta = json.loads(files["meta/groups.json"])
    found = []
    for emoji in json.loads(files["en/data.json"]):
        if "group" not in emoji:  # regional indicators
            continue
        group = meta["groups"][str(emoji["group"])]
        subgroup = meta["subgroups"][str(emoji["subgroup"])]
        label = emoji["label"]
        if group not in GROUPS or subgroup in LEFT_OUT_SUBGROUPS:
            continue
        if label in LEFT_OUT_LABELS:
            continue
        name = RENAMED.get(label, label.lower().replace("’", "'"))
        animal = MORE_SPRITES.get(name, name.removesuffix(" face"))
        is_animal = animal in ANIMALS and group == "animals-nature"
        found.append(
            {
                "name": name,
                "label": label,
                "group": group,
                "subgroup": subgroup,
                "ddpo_class": animal if is_animal else "",
                "emoji": emoji["emoji"],
                "tags": ",".join(emoji["tags"]),
            }
        )
    return found


def code_points(emoji, *, variation_selector):
    """The name of an emoji's file, `1f43f-fe0f`, or without the `fe0f`."""
    codes = [f"{ord(character):x}" for character in emoji]
    return "-".join(c for c in codes if variation_selector or c != "fe0f")


def render_icon(icons, name):
    """An icon of an Iconify set, as an RGBA image."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" '
        f'width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    # The sets have no text, so fonts need not be looked for.
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=RENDER_SIZE, height=RENDER_SIZE, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGBA")


def renderer(package):
    """A function from an emoji to its RGBA image, or to `None` if there is none."""
    files = fetch(package)
    if "icons.json" not in files:

        def from_image(emoji):
            for variation_selector in (True, False):
                stem = code_points(emoji, variation_selector=variation_selector)
                if image := files.get(f"assets/{stem}.webp"):
                    return Image.open(io.BytesIO(image)).convert("RGBA")

        return from_image

    icons, names = json.loads(files["icons.json"]), json.loads(files["chars.json"])

    def from_icon(emoji):
        for variation_selector in (True, False):
            codes = code_points(emoji, variation_selector=variation_selector)
            if name := names.get(codes):
                return render_icon(icons, name)

    return from_icon


def fit(image):
    """Cut off what is empty around an image, and fit it into a square.

    **Arguments:**

    - `image`: an RGBA image.

    **Returns:**

    uint8, 64 × 64 × 4; color is not multiplied with opacity.
    """
    image = image.crop(image.getchannel("A").getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def main():
    """Fetch the emoji sets, draw all sprites, and write them to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="a .npz file")
    args = parser.parse_args()
    renderers = [(style, renderer(p), licence) for style, p, licence in STYLE_PACKAGES]
    images, rows = [], []
    for concept in tqdm(concepts()):
        for style, render, licence in renderers:
            # Emoji newer than a set have no sprite in it.
            if (image := render(concept["emoji"])) is not None:
                images.append(fit(image))
                rows.append(concept | {"style": style, "licence": licence})
    columns = {key: np.asarray([row[key] for row in rows]) for key in rows[0]}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, images=np.stack(images), **columns)
    print(f"{len(images)} sprites in {args.out}")


if __name__ == "__main__":
    main()
