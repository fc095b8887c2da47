"""Rewards by name, with their published weights."""

from ._load import load as load, load_lpips as load_lpips
from ._published import (
    names as names,
    published as published,
    PublishedReward as PublishedReward,
)
