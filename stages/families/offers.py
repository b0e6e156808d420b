"""What a family offers with a checkpoint, read from its JSON without torch; and the refusal of what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stages.core.conditions import Condition, prompt_key
from stages.core.config_files import nearest
from stages.core.errors import BadInput
from stages.core.weights.checkpoint import ModelConfig

Weights = Mapping[str, tuple[str, ...]]
"""Key of ModelConfig -> component folders below that location, () for one part by itself."""


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """The sizes that a checkpoint can make.

    step           width and height are multiples of this, in pixels
    smallest       width and height are at least this, in pixels
    frames         frames are k * `frames` + 1; 1 allows any number
    least, most    frames, at least and at most; `most` 0 sets no limit
    largest        width and height are at most this, in pixels; 0 sets no limit
    only           width and height where there is one size only
    """

    step: int
    frames: int = 1
    least: int = 1
    most: int = 0
    largest: int = 0
    only: tuple[int, int] | None = None
    smallest: int = 0

    def within(self, positions: int, patch: Sequence[int], spatial: int, temporal: int) -> SizeRule:
        """The same for a transformer that knows so many positions along each axis, 0 for any number.

        patch: its patches in latent frames, rows and columns; spatial, temporal: pixels, frames of one of a latent.
        """
        if not positions:
            return self
        sides, frames = positions * min(patch[1:]) * spatial, (positions * patch[0] - 1) * temporal + 1
        return replace(
            self,
            largest=min(sides, self.largest or sides) // self.step * self.step,
            most=min(frames, self.most or frames),
        )

    def nearest(self, width: int, height: int, n_frames: int) -> tuple[int, int, int]:
        """The size that can be made which is nearest to this one."""
        return (*(self.only or (self._near(width), self._near(height))), self._near_frames(n_frames))

    def check(self, name: str, width: int, height: int, n_frames: int) -> None:
        """Raise BadInput naming the nearest size, unless pixels and frames are what can be made."""
        *near, near_frames = self.nearest(width, height, n_frames)
        if [width, height] != near:
            least = f", at least {self.smallest}" if self.smallest > self.step else ""
            most = f", at most {self.largest}" if self.largest else ""
            why = f"width and height must be multiples of {self.step}{least}{most}"
            why = "it makes one size only" if self.only else why
            raise BadInput(f"{name} cannot make {width}x{height}: {why}; the nearest is {near[0]}x{near[1]}")
        if n_frames != near_frames:
            rule = self._frames_rule()
            raise BadInput(f"{name} cannot make {n_frames} frames: they must be {rule}; the nearest is {near_frames}")

    def _near(self, pixels: int) -> int:
        near = max(self.step, self.smallest, round(pixels / self.step) * self.step)
        return min(near, self.largest) if self.largest else near

    def _near_frames(self, n_frames: int) -> int:
        first = max(0, -(-(self.least - 1) // self.frames))
        count = max(first, round((n_frames - 1) / self.frames))
        if self.most:
            count = min(count, (self.most - 1) // self.frames)
        return count * self.frames + 1

    def _frames_rule(self) -> str:
        rule = f"k * {self.frames} + 1" if self.frames > 1 else ""
        span = f"at least {self.least}" if self.least > 1 else ""
        span += (" and " if span else "") + f"at most {self.most}" if self.most else ""
        return ", ".join(part for part in (rule, span) if part) or "at least 1"


@dataclass(frozen=True, kw_only=True)
class Accepts:
    """How a checkpoint takes conditions of one kind.

    roles   the roles, or signals, that it takes; () takes any
    least   how many it needs; most: how many it takes
    frames  pixel frames at which it takes them, -1 for the last one; None: at any
    apart   keyframes stand at frames k * `apart` + 1 only; 1 allows any
    heeds   which of `scale`, `level`, `start`, `end` it goes by; must: which of them it needs
    beside  kinds of which one has to be given with it
    alone   kinds beside which it cannot be given
    """

    roles: tuple[str, ...] = ()
    least: int = 0
    most: int = 1
    frames: tuple[int, ...] | None = None
    apart: int = 1
    heeds: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One setting that steers a sampler of this family beyond steps and guidance: its default, its range, and the role
    (`see`, `denoise`) that goes by it. Where `default` is None, what happens without it is in `help`. `form` is number,
    numbers (a list), switch or text; only numbers have a range."""

    default: float | None
    low: float
    high: float
    help: str
    role: str = "denoise"
    whole: bool = False
    form: str = "number"


@dataclass(frozen=True, kw_only=True)
class Offers:
    """What one checkpoint of a family can do.

    variant     what the family calls this kind of checkpoint, "" where it has one only
    size        the sizes that it can make
    parts       role (text, see, denoise, spatial, temporal, decode, sound) -> the weights that it loads: what is
                hashed, and what the doctor looks for. A role that is not here, the checkpoint does not have
    accepts     kind of condition -> how it takes them; a kind that is not here, it refuses
    asks        kinds of which it needs at least one; () where it goes by text alone
    knobs       further settings of the sampler
    schedulers  schedulers of diffusers that it can sample with; () leaves that of the checkpoint
    attention   whether an attention back end can be chosen: "" no, `plain` any of them, `masked` one that takes masks
    caches      caches of diffusers, by name, that save passes of its denoiser
    uncached    knobs beside which no cache works
    windows     the knob with which a clip may have more frames than `size.most`, "" for none
    steps       how many steps it takes at least
    sampling    which of the fields of Sampling beside steps and guidance it goes by
    tracks      what its latents hold: video, perhaps audio, which the role `sound` makes audible
    defaults    width, height, frames, fps and guidance of a take that says nothing
    draws       roles that draw random numbers
    sees        columns of a take, beside conditions, size and fps, that what `see` makes depends on
    decodes     which of `tiling` and `chunk` its VAE decodes with
    tokens      whether the length of its embeddings can be chosen
    token_step  of what that length must be a multiple
    refines_after  whether a refine pass is given the conditions too
    continues   whether it goes on from the end of a clip, latent by latent
    quantizes   the networks of its denoiser that can be held in fewer bits
    lora        the networks of its denoiser that take adapters, () for none; of several, an adapter names its one
    reads       columns of a take that its denoiser is handed as `Given.columns`, as the text where it encodes it itself
    needs       of these, the ones that must not be empty
    lacks       columns of a take that it has no use for: a take that says one is refused
    """

    variant: str = ""
    size: SizeRule
    parts: Mapping[str, Weights]
    accepts: Mapping[str, Accepts] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    schedulers: tuple[str, ...] = ()
    attention: str = ""
    caches: tuple[str, ...] = ()
    uncached: tuple[str, ...] = ()
    windows: str = ""
    steps: int = 1
    sampling: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ("video",)
    defaults: Mapping[str, float] = field(default_factory=dict)
    draws: tuple[str, ...] = ("denoise",)
    sees: tuple[str, ...] = ()
    decodes: tuple[str, ...] = ("tiling", "chunk")
    tokens: bool = True
    token_step: int = 1
    refines_after: bool = False
    continues: bool = False
    quantizes: tuple[str, ...] = ()
    lora: tuple[str, ...] = ("transformer",)
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def size_for(self, knobs: Mapping[str, Any]) -> SizeRule:
        """The sizes that it can make with these knobs of the sampler: in windows, of any length."""
        return replace(self.size, most=0) if self.windows and knobs.get(self.windows) else self.size

    def weights(self, *roles: str) -> dict[str, tuple[str, ...]]:
        """What a step of these roles loads, as `Step.weights_of` says it; {} where there are no such roles."""
        return {f"model.{key}": folders for key, folders in self._of(roles).items()}

    def everything(self) -> dict[str, tuple[str, ...]]:
        """All weights of all roles, by key of ModelConfig."""
        return self._of(self.parts)

    def _of(self, roles: Iterable[str]) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for role in roles:
            for key, folders in self.parts.get(role, {}).items():
                kept = found.setdefault(key, [])
                kept += [f for f in folders if f not in kept]
        return {key: tuple(folders) for key, folders in found.items()}


def check_parts_known(name: str, model: ModelConfig, known: Iterable[str]) -> None:
    """Raise BadInput for a further checkpoint in `model.parts` that a family has no use for."""
    names = sorted(known)
    for part in model.parts:
        if part not in names:
            hint = nearest(part, names) if names else "it takes none"
            raise BadInput(f"model.parts: {name} has no part {part!r}; {hint}")


def called(name: str, offers: Offers) -> str:
    """A family and its variant, as a sentence calls them."""
    return f"{name} ({offers.variant})" if offers.variant else name


def check_conditions(
    name: str, offers: Offers, conditions: Sequence[Condition], n_frames: int, others: Mapping[str, str]
) -> None:
    """Raise BadInput for the first condition that this checkpoint does not take as it is given, and where one that it
    needs is absent. others: kind of condition -> the families that take it, in words."""
    who = called(name, offers)
    for one in conditions:
        if one.kind not in offers.accepts:
            hint = f"; these do: {others[one.kind]}" if others.get(one.kind) else "; no family here does"
            raise BadInput(f"{who} takes no `{one.key}`{hint}")
        _check_one(who, offers.accepts[one.kind], one, n_frames)
    if offers.asks and not any(c.kind in offers.asks for c in conditions):
        keys = [key for kind in offers.asks for key in _keys(kind, offers.accepts)]
        raise BadInput(f"{who} needs one of {', '.join(keys)}: give it")
    for kind, accepts in offers.accepts.items():
        given = [c for c in conditions if c.kind == kind]
        keys = _keys(kind, offers.accepts)
        if len(given) < accepts.least:
            raise BadInput(f"{who} needs {_needed(kind, accepts, keys)}")
        if len(given) > accepts.most:
            together = " together" if len(keys) > 1 else ""
            raise BadInput(f"{who} takes at most {accepts.most} of {' and '.join(keys)}{together}, not {len(given)}")
        clash = next((c for c in conditions if given and c.kind in accepts.alone), None)
        if clash:
            raise BadInput(f"{who} takes `{given[0].key}` or `{clash.key}`, not both at once: leave one out")
        if given and accepts.beside and not any(c.kind in accepts.beside for c in conditions):
            beside = [key for other in accepts.beside for key in _keys(other, offers.accepts)]
            raise BadInput(f"{who} takes `{given[0].key}` only together with {' or '.join(beside)}: give it too")
    places: dict[int, Condition] = {}
    apart = offers.accepts["still"].apart if "still" in offers.accepts else 1
    for one in (c for c in conditions if c.kind == "still"):
        place = place_of(one, n_frames)
        slot = -(-place // apart)  # the first frame is one of its own, each other place is one of `apart` frames
        if slot in places:
            where = f"frame {place}" if apart == 1 else f"frames {slot * apart - apart + 1} to {slot * apart}"
            raise BadInput(f"{who}: `{places[slot].key}` and `{one.key}` both name {where}; leave one out")
        places[slot] = one
    stills = offers.accepts.get("still")
    from_first = stills and "first" in stills.roles and "keyframe" not in stills.roles
    if from_first and places and 0 not in places:
        raise BadInput(f"{who} needs a first frame beside the last one: give `image`")


def _keys(kind: str, accepts: Mapping[str, Accepts]) -> list[str]:
    """The keys of a prompt that name what a checkpoint takes of a kind, as a sentence writes them."""
    roles = accepts[kind].roles if kind in accepts else ()
    return list(dict.fromkeys(f"`{prompt_key(kind, role)}`" for role in roles or (None,)))


def _check_one(who: str, accepts: Accepts, one: Condition, n_frames: int) -> None:
    if accepts.roles and one.role not in accepts.roles:
        if one.kind == "control":
            signals = " or ".join(accepts.roles)
            raise BadInput(f"{who} takes `control` with the signal {signals}, not {one.role or 'without one'}")
        keys = " or ".join(_keys(one.kind, {one.kind: accepts}))
        raise BadInput(f"{who} takes {keys}, not `{one.key}`; leave that out")
    place = place_of(one, n_frames)
    if one.kind == "still" and not 0 <= place < n_frames:
        raise BadInput(f"`{one.key}` names frame {place}, and a clip of {n_frames} frames has 0 to {n_frames - 1}")
    if accepts.frames is not None and place not in [f % n_frames for f in accepts.frames]:
        places = ", ".join(map(str, accepts.frames))
        raise BadInput(f"`{one.key}` names frame {place}: {who} takes it at {places} only")
    if one.role == "keyframe" and (place - 1) % accepts.apart:
        near = max(0, round((place - 1) / accepts.apart)) * accepts.apart + 1
        raise BadInput(
            f"`{one.key}` names frame {place}: {who} takes it at frames k * {accepts.apart} + 1 only; the nearest is"
            f" {near}"
        )
    for key in ("scale", "level", "start", "end"):
        if getattr(one, key) is not None and key not in accepts.heeds:
            raise BadInput(f"{who} does not use the {key} of `{one.key}`; leave `{key}` out")
        if getattr(one, key) is None and key in accepts.must:
            raise BadInput(f"{who} needs a {key} for `{one.key}`: give `{key}`")
    if one.level is not None and not 0 < one.level < 1:
        raise BadInput(f"level of `{one.key}` is {one.level:g}; it must be above 0 and below 1")


def _needed(kind: str, accepts: Accepts, keys: Sequence[str]) -> str:
    if kind != "still":
        return f"{keys[0]}: give it"
    if accepts.least == 2 and "last" in accepts.roles:
        return "a first and a last frame: give `image` and `last_image`"
    return f"a picture: give {' or '.join(keys)}"


def place_of(condition: Condition, n_frames: int) -> int:
    """The pixel frame at which a condition begins: a last frame stands at the end."""
    if condition.role == "last":
        return n_frames - 1
    return condition.frame or 0


def check_decoding(where: str, name: str, offers: Offers, config: Any) -> None:
    """Raise BadInput for a way to save memory, `tiling` or `chunk`, that this family's VAE does not decode with."""
    for setting in ("tiling", "chunk"):
        if getattr(config, setting) and setting not in offers.decodes:
            raise BadInput(f"{where}.{setting}: the VAE of {name} has none; set it to 0")


def check_columns(name: str, offers: Offers, values: Mapping[str, Any]) -> None:
    """Raise BadInput for what a take says that this checkpoint has no use for, and for what it needs and is empty."""
    for column in offers.lacks:
        if values.get(column):
            raise BadInput(f"{called(name, offers)} has no use for `{column}`; leave it out")
    for column in offers.needs:
        if not str(values.get(column) or "").strip():
            raise BadInput(f"{called(name, offers)} needs a `{column}`")
