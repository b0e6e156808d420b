"""`rushes tiny`: an untrained checkpoint of a family, small enough for a test of a campaign."""

from __future__ import annotations

from pathlib import Path

from flows.display.terminal import say
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig
from stages.families.contract import families, load_family, load_maker

SMALL = (64, 64, 9)
"""Width, height and frames, where the checkpoint can make them. A size for weights of gigabytes takes minutes."""
FPS = 8


def make_tiny(family: str, folder: str, variant: str = "", seed: int = 0) -> int:
    """Write it, and print what a campaign says to use it. Raises BadInput for a name that there is not, and for a
    folder that holds something else."""
    makers = load_family(family).makers
    if not makers:
        made = [name for name in families() if load_family(name).makers]
        raise BadInput(
            f"there is no maker of tiny checkpoints of the family {family}; there is one of {', '.join(made)}"
        )
    if variant and variant not in makers:
        raise BadInput(
            f"--variant: {family} has no checkpoint of the kind {variant!r}; {nearest(variant, makers)}; it has "
            f"{', '.join(makers)}"
        )
    place = Path(folder).expanduser()
    if place.exists() and not (place / "model_index.json").is_file() and (place.is_file() or any(place.iterdir())):
        raise BadInput(f"{place} is there and holds no checkpoint: give a folder that is not there yet")
    load_maker(family)(place, variant or makers[0], seed)
    names = [p.name for p in sorted(place.iterdir()) if p.is_dir()]
    say(f"{place.resolve()}: {family}, {variant or makers[0]}, untrained: {', '.join(names)}")
    parts = {"controlnet": f"{place.resolve()}/controlnet"} if "controlnet" in names else {}
    further = f", parts: {{controlnet: {parts['controlnet']}}}" if parts else ""
    offers = load_family(family).offers(ModelConfig(family=family, checkpoint=str(place.resolve()), parts=parts))
    say("for a campaign:")
    say("cascade: plain")
    say(f"model: {{family: {family}, checkpoint: {place.resolve()}{further}}}")
    for key, value in zip(("width", "height", "frames"), offers.size.nearest(*SMALL), strict=True):
        say(f"{key}: {value}")
    if "fps" not in offers.defaults:
        say(f"fps: {FPS}")
    return 0
