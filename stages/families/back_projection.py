"""Latents that decode to what they were encoded from, closer than one pass through an encoder gives."""

from __future__ import annotations

from stages.core.latents.form import DecodeRecipe, Floats
from stages.families.contract import Codec, Frames


def encode_closely(codec: Codec, frames: Frames, recipe: DecodeRecipe, rounds: int) -> Floats:
    """The latent [C, F, H, W] of frames [k * temporal ratio + 1, H, W, 3]; `rounds` times, what the encoder sees
    missing from the decoded latent is added to it.

    Iterated back-projection (Irani and Peleg, 1991, "Improving resolution by image registration"), with encoder and
    decoder in the places of blur and its inverse. Each round costs a decode and an encode. Without it, what is decoded
    and encoded again and again, window after window of a long clip, loses its small parts.
    """
    wanted = codec.encode(frames)
    latent = wanted
    for _ in range(rounds):
        latent = latent + (wanted - codec.encode(codec.decode(latent, recipe)))
    return latent
