"""Shots under camera moves and changing light, and transitions between them: what the shot detector is held to.

Everything comes from real pictures and a seed. A law makes one shot out of a still or of a clip, which is no
transition however wild it is; `edited` joins shots made by such laws with transitions of known places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from stages.core.measures.shots.detector import Transition
from tests.data_prep.sequences import Frames, Sequence

WIDTH, HEIGHT = 320, 180
MASKS = ("left", "right", "up", "down", "diagonal", "circle", "soft", "barn")
Rng = np.random.Generator


@dataclass(frozen=True)
class Footage:
    """Where shots come from: a still of at least 960 pixels across, uint8 [h, w, 3], and a clip [n, 180, 320, 3]."""

    name: str
    still: np.ndarray
    clip: Frames


def footage(path: Path, start: int = 12, count: int = 90) -> Footage:
    """The frames of one video from `start` on."""
    clip: list[np.ndarray] = []
    still = None
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index < start:
                continue
            if still is None:
                picture = frame.to_ndarray(format="rgb24")
                tall = max(540, round(960 * frame.height / frame.width))
                still = cv2.resize(
                    picture, (round(tall * frame.width / frame.height), tall), interpolation=cv2.INTER_CUBIC
                )
            clip.append(frame.reformat(WIDTH, HEIGHT, "rgb24", interpolation="AREA").to_ndarray())
            if len(clip) == count:
                break
    if still is None:
        raise ValueError(f"{path.name} has no frame {start}")
    return Footage(path.name, still, np.stack(clip))


def seen(still: np.ndarray, x: float, y: float, zoom: float, angle: float = 0.0) -> np.ndarray:
    """What a camera sees of a still: x and y from 0 to 1 between its edges, zoom in widths of the view, in degrees."""
    height, width = still.shape[:2]
    wide = max(WIDTH * zoom, WIDTH * HEIGHT * zoom / HEIGHT)
    scale = max(wide / width, HEIGHT * 1.05 / height)
    free_x, free_y = width * scale - WIDTH, height * scale - HEIGHT
    centre = ((WIDTH / 2 + x * free_x) / scale, (HEIGHT / 2 + y * free_y) / scale)
    matrix = cv2.getRotationMatrix2D(centre, angle, scale)
    matrix[:, 2] += np.array([WIDTH / 2, HEIGHT / 2]) - np.array(centre)
    shrunk = still if scale > 0.7 else cv2.GaussianBlur(still, (0, 0), 0.4 / scale)
    return cv2.warpAffine(shrunk, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def eased(n: int, rng: Rng) -> np.ndarray:
    """The way from 0 to 1 in n frames: even, or starting and stopping softly."""
    t = np.linspace(0, 1, n)
    return t if rng.random() < 0.5 else t * t * (3 - 2 * t)


def pan(shot: Footage, n: int, rng: Rng) -> Frames:
    """Across, at 0.3 to 1.2 widths a second."""
    zoom = rng.uniform(1.8, 3.5)
    reach = min(1.0, rng.uniform(0.3, 1.2) * n / 25 / (zoom - 1))
    way, y = eased(n, rng) * reach, rng.uniform(0.2, 0.8)
    way = way if rng.random() < 0.5 else 1 - way
    return np.stack([seen(shot.still, x, y, zoom) for x in way])


def tilt(shot: Footage, n: int, rng: Rng) -> Frames:
    """Up or down, at 0.3 to 1.2 heights a second."""
    zoom = rng.uniform(1.8, 3.5)
    reach = min(1.0, rng.uniform(0.3, 1.2) * n / 25 / (zoom - 1))
    way, x = eased(n, rng) * reach, rng.uniform(0.2, 0.8)
    way = way if rng.random() < 0.5 else 1 - way
    return np.stack([seen(shot.still, x, y, zoom) for y in way])


def diagonal(shot: Footage, n: int, rng: Rng) -> Frames:
    """Across and up or down at once."""
    zoom, way = rng.uniform(1.8, 3.0), eased(n, rng)
    return np.stack(
        [seen(shot.still, x, y, zoom) for x, y in zip(way, way if rng.random() < 0.5 else 1 - way, strict=True)]
    )


def zoomed(shot: Footage, n: int, rng: Rng) -> Frames:
    """In or out by 1.5 to 3 times."""
    low = rng.uniform(1.0, 1.4)
    ways = low * rng.uniform(1.5, 3.0) ** eased(n, rng)
    x, y = rng.uniform(0.2, 0.8, 2)
    return np.stack([seen(shot.still, x, y, z) for z in (ways if rng.random() < 0.5 else ways[::-1])])


def turned(shot: Footage, n: int, rng: Rng) -> Frames:
    """About the line of sight, by up to 120 degrees, at a zoom."""
    angles = eased(n, rng) * rng.uniform(30, 120) * rng.choice([-1, 1])
    return np.stack([seen(shot.still, 0.5, 0.5, 1.8, a) for a in angles])


def shaken(shot: Footage, n: int, rng: Rng) -> Frames:
    """Held by hand, badly."""
    steps = cv2.GaussianBlur(rng.normal(0, 1, (n, 3)), (1, 5), 0) * [0.10, 0.10, 2.0] * rng.uniform(0.4, 1.2)
    places = np.clip(0.5 + np.cumsum(steps[:, :2], 0) * 0.3 + steps[:, :2], 0, 1)
    return np.stack([seen(shot.still, x, y, 2.0, a) for (x, y), a in zip(places, steps[:, 2], strict=True)])


def whipped(shot: Footage, n: int, rng: Rng) -> Frames:
    """A whip pan between two rests on one still, blurred along its way."""
    length, zoom = int(rng.integers(4, 12)), rng.uniform(2.5, 4.0)
    at = int(rng.integers(15, n - 15 - length))
    x = np.concatenate([np.zeros(at), np.linspace(0, 1, length + 2)[1:-1], np.ones(n - at - length)])
    x = 0.05 + 0.9 * (x if rng.random() < 0.5 else 1 - x) + np.linspace(0, 0.03, n)
    blur = max(3, int(0.5 * abs(x[at + 1] - x[at]) * (zoom - 1) * WIDTH)) | 1
    out = [seen(shot.still, v, 0.5, zoom) for v in x]
    for i in range(at, at + length):
        out[i] = cv2.blur(out[i], (blur, 1), borderType=cv2.BORDER_REFLECT)
    return np.stack(out)


def jerky(shot: Footage, n: int, rng: Rng) -> Frames:
    """A pan that loses frames: each third to sixth one is new, the others repeat it."""
    frames, every = pan(shot, n, rng), int(rng.integers(2, 5))
    return frames[(np.arange(n) // every) * every]


def drifting(shot: Footage, n: int, rng: Rng) -> Frames:
    """A still that hardly moves."""
    zoom = rng.uniform(1.3, 2.2)
    x = 0.5 + np.linspace(0, 0.1, n) * rng.choice([-1, 1])
    return np.stack([seen(shot.still, v, 0.5, zoom * (1 + 0.05 * i / n)) for i, v in enumerate(x)])


def played(shot: Footage, n: int, rng: Rng) -> Frames:
    """The clip itself, back and forth where it is short."""
    places = np.arange(n) + int(rng.integers(0, max(1, len(shot.clip) - n)))
    last = max(1, len(shot.clip) - 1)
    return shot.clip[np.abs((places + last) % (2 * last) - last) if len(shot.clip) > 1 else places * 0]


def tinted(shot: Footage, n: int, rng: Rng) -> Frames:
    """Coloured light that changes at once every 6 to 20 frames."""
    frames, every = drifting(shot, n, rng).astype(np.float32), int(rng.integers(6, 20))
    colours = rng.uniform(0.15, 1.3, (n // every + 1, 3))
    return np.uint8(np.clip(frames * colours[np.arange(n) // every][:, None, None], 0, 255))


def glowing(shot: Footage, n: int, rng: Rng) -> Frames:
    """Coloured light that goes smoothly from one colour to the next, over a moving or a still camera."""
    base = pan if rng.random() < 0.4 else drifting
    frames, stops = base(shot, n, rng).astype(np.float32), rng.uniform(0.2, 1.3, (4, 3))
    colours = np.stack([np.interp(np.linspace(0, 3, n), np.arange(4), stops[:, c]) for c in range(3)], 1)
    return np.uint8(np.clip(frames * colours[:, None, None], 0, 255))


def spotlit(shot: Footage, n: int, rng: Rng) -> Frames:
    """Beams of coloured light that sweep over a still."""
    frames = drifting(shot, n, rng).astype(np.float32)
    x = np.linspace(0, 1, WIDTH)
    for i in range(n):
        for beam in range(2):
            centre = 0.5 + 0.5 * np.sin(i * 0.2 * (beam + 1) + beam)
            glow = np.exp(-(((x - centre) / 0.2) ** 2))[None, :, None]
            frames[i] = frames[i] * 0.7 + glow * np.roll([120.0, 40.0, 20.0], beam)
    return np.uint8(np.clip(frames, 0, 255))


def strobed(shot: Footage, n: int, rng: Rng) -> Frames:
    """A strobe: one or two frames in four to nine are far brighter, or all but dark."""
    frames, every = played(shot, n, rng).astype(np.float32), int(rng.integers(4, 10))
    gain = rng.choice([0.15, 2.5])
    lit = np.arange(n) % every >= every - rng.integers(1, 3)
    return np.uint8(
        np.clip(np.where(lit[:, None, None, None], frames * gain + (30 if gain > 1 else 0), frames), 0, 255)
    )


def crossed(shot: Footage, n: int, rng: Rng) -> Frames:
    """Something big and near crosses the picture, 0.3 to 0.8 widths wide, in 5 to 20 frames."""
    frames, length = played(shot, n, rng).copy(), int(rng.integers(5, 20))
    wide, at = int(WIDTH * rng.uniform(0.3, 0.8)), int(rng.integers(15, n - 35))
    thing = cv2.resize(shot.still[: shot.still.shape[0] // 3, : shot.still.shape[1] // 3], (wide, HEIGHT))[:, ::-1] // 2
    places = np.linspace(-wide, WIDTH, length).astype(int)
    for i, left in enumerate(places if rng.random() < 0.5 else places[::-1]):
        a, b = max(0, left), min(WIDTH, left + wide)
        if b > a:
            frames[at + i][:, a:b] = thing[:, a - left : b - left]
    return frames


def layered(shot: Footage, n: int, rng: Rng) -> Frames:
    """A near layer moves past a far one, as seen from a car."""
    far = pan(shot, n, rng)
    near = cv2.resize(shot.clip[0], (WIDTH * 5, HEIGHT * 5))[:, ::-1]
    speed = rng.uniform(0.3, 0.99) * WIDTH * 4 / n
    for i in range(n):
        left = int(speed * i)
        far[i][HEIGHT * 3 // 5 :] = near[HEIGHT * 2 : HEIGHT * 3 - HEIGHT * 3 // 5, left : left + WIDTH]
    return far


def titled(shot: Footage, n: int, rng: Rng) -> Frames:
    """A lower third comes and goes at once."""
    frames, at = played(shot, n, rng).copy(), int(rng.integers(15, n - 30))
    tall = int(HEIGHT * rng.uniform(0.15, 0.28))
    band = rng.integers(0, 256, 3)
    for frame in frames[at : at + int(rng.integers(12, 40))]:
        frame[HEIGHT - tall :] = band
        frame[HEIGHT - tall + 8 : HEIGHT - 8 : 4, 30:250:2] = 255 - band
    return frames


Law = Callable[[Footage, int, Rng], Frames]
KNOWN: dict[str, Law] = {
    law.__name__: law for law in (pan, tilt, zoomed, shaken, whipped, jerky, played, tinted, strobed, crossed, titled)
}
"""Laws on which thresholds may be set."""
KEPT_BACK: dict[str, Law] = {law.__name__: law for law in (diagonal, turned, glowing, spotlit, layered)}
"""Laws that are for checking alone."""
CALM: tuple[Law, ...] = (played, played, drifting, pan, shaken)
"""Laws of the shots between transitions."""


def edited(shots: list[Footage], rng: Rng, long: float = 36.0) -> Sequence:
    """Shots joined by cuts, dissolves, wipes and fades of many lengths."""
    made = Sequence()
    for i, shot in enumerate(shots):
        law = CALM[rng.integers(len(CALM))]
        frames = law(shot, int(rng.integers(30, 50)) + (40 if i else 0), rng)
        kind = "cut" if i == 0 else rng.choice(["cut", "dissolve", "wipe", "fade"], p=[0.4, 0.3, 0.12, 0.18])
        length = int(min(np.exp(rng.uniform(np.log(5), np.log(long))), len(made.frames) - 6, 40))
        if kind == "cut":
            made.cut(frames)
        elif kind == "fade":
            made.fade(
                frames, max(4, length // 2), int(rng.integers(1, 8)), max(4, length // 2), int(rng.choice([0, 0, 255]))
            )
        else:
            made.mixed(frames, length, "dissolve" if kind == "dissolve" else str(rng.choice(MASKS)))
    return made


@dataclass
class Tally:
    """How many labelled cuts and gradual transitions there are, how many were found, and what else was reported."""

    cuts: int = 0
    cuts_found: int = 0
    gradual: int = 0
    gradual_found: int = 0
    false: int = 0

    @property
    def hard_f1(self) -> float:
        """F1 of cuts, with everything false against it."""
        return 2 * self.cuts_found / (self.cuts_found + self.cuts + self.false)

    def count(self, truth: list[dict], transitions: Iterable[Transition]) -> None:
        """Add one sequence. A cut must lie within a frame, a gradual transition overlap; each report counts once."""
        free = list(transitions)
        for label in sorted(truth, key=lambda label: label["kind"] != "cut"):
            cut = label["kind"] == "cut"
            first, last = label.get("start", label["frame"]), label.get("end", label["frame"] - 1) + 1
            slack = 1 if cut else 2
            hits = [
                t
                for t in free
                if (abs(t.first_frame - first) <= 1 and abs(t.last_frame - last) <= 1 if cut else True)
                and t.first_frame <= last + slack
                and t.last_frame >= first - slack
            ]
            if hits:
                free.remove(min(hits, key=lambda t: abs(t.first_frame + t.last_frame - first - last)))
            self.cuts += cut
            self.gradual += not cut
            self.cuts_found += cut and bool(hits)
            self.gradual_found += not cut and bool(hits)
        self.false += len(free)
