"""Keeps of all sprites the 45 animals in three styles: `weights/animals.npz`.

python weights/animals.py --sprites weights/cache/sprites.npz

With them scenes can be drawn, and labelled, from a clone of the repository alone.
"""

import argparse
import pathlib

import numpy as np
from cutouts import Sprites
from scenes import STYLES


PATH = pathlib.Path(__file__).with_suffix(".npz")
_COLUMNS = ("images", "name", "style", "subgroup", "ddpo_class", "licence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=PATH)
    args = parser.parse_args()
    with np.load(args.sprites) as file:
        columns = {column: file[column] for column in _COLUMNS}
    # `Sprites` counts those of the styles that are used.
    used = np.flatnonzero(np.isin(columns["style"], STYLES))
    chosen = used[sorted(Sprites(args.sprites).canonical.values())]
    np.savez_compressed(args.out, **{k: v[chosen] for k, v in columns.items()})


if __name__ == "__main__":
    main()
