"""Each measure on pictures whose true value is known: it moves the right way, by the right amount."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.core.measures.bars import Bars, bars, lasting
from stages.core.measures.blockiness import blockiness
from stages.core.measures.camera import camera_motion, shake
from stages.core.measures.colours import colour_shares, dominant
from stages.core.measures.luma import brightness, flicker
from stages.core.measures.motion import motion
from stages.core.measures.phash import distance, phash
from stages.core.measures.sharpness import edge_steepness, sharpness, size_at
from stages.core.measures.signature import SIZE, Novelty, cut_distance, picture_cells, plane_weights, signature


def texture(height: int, width: int, seed: int = 0, grain: int = 9) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain / 3)
    return cv2.normalize(smooth, None, 30, 220, cv2.NORM_MINMAX)


def warped(picture: np.ndarray, x: float = 0, y: float = 0, zoom: float = 1, degrees: float = 0) -> np.ndarray:
    height, width = picture.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    matrix[:, 2] += (x, y)
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


BIG = texture(72 * 3, 128 * 3)
PLAIN = BIG[72:144, 128:256].copy()


def moved(**how: float) -> np.ndarray:
    return warped(BIG, **how)[72:144, 128:256].copy()


class TestLuma:
    def test_mean_and_contrast_are_on_the_full_scale_in_either_range(self) -> None:
        half = np.zeros((100, 100), np.uint8)
        half[:50] = 255
        assert brightness(half, limited=False) == pytest.approx((127.5, 127.5, 0.5), abs=0.01)
        limited = np.uint8(np.round(16 + half * (219 / 255)))
        assert brightness(limited, limited=True) == pytest.approx((127.5, 127.5, 0.5), abs=0.01)

    def test_black_counts_what_is_darker_than_a_tenth_of_white(self) -> None:
        steps = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 40).reshape(25, 40)
        assert brightness(steps, limited=False)[2] == pytest.approx(3 / 25)

    def test_flicker_is_the_second_difference(self) -> None:
        ramp = np.linspace(10, 200, 50)
        assert flicker(ramp) == pytest.approx(0, abs=1e-9)
        assert flicker(ramp + 3 * (-1) ** np.arange(50)) == pytest.approx(12)
        assert flicker(ramp[:2]) == 0


class TestSharpness:
    def test_falls_with_blur_and_rises_with_noise(self) -> None:
        sharp = texture(288, 512, grain=4)
        blurred = [sharpness(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (1, 2, 4)]
        assert sharpness(sharp) > 3 * blurred[0] > 9 * blurred[1] > 27 * blurred[2] > 0
        noise = np.random.default_rng(0).normal(0, 8, sharp.shape)
        noisy = np.uint8(np.clip(sharp + noise, 0, 255))
        # white noise of variance v adds 20 v: the squares of the Laplacian kernel 1 1 1 1 -4
        assert sharpness(noisy) - sharpness(sharp) == pytest.approx(20 * 64, rel=0.1)

    def test_edges_fall_with_blur_and_hardly_rise_with_noise(self) -> None:
        card = np.full((128, 128, 3), 120, np.uint8)
        cv2.circle(card, (64, 64), 30, (220, 30, 30), -1, cv2.LINE_AA)
        steep = [edge_steepness(cv2.GaussianBlur(card, (0, 0), sigma)) for sigma in (0.1, 1, 2, 4)]
        assert steep[0] > 1.3 * steep[1] > 1.6 * steep[2] > 2 * steep[3] > 0
        noisy = np.uint8(np.clip(card + np.random.default_rng(0).normal(0, 3, card.shape), 0, 255))
        assert edge_steepness(noisy) == pytest.approx(steep[0], rel=0.1)
        assert edge_steepness(np.full_like(card, 90)) == 0

    def test_edges_of_a_ramp(self) -> None:
        ramp = np.repeat(np.arange(0, 240, 3, dtype=np.uint8)[None, :, None], 40, axis=0)
        grey = np.repeat(ramp, 3, axis=2)
        assert edge_steepness(grey) == pytest.approx(3 * 3**0.5)

    def test_size(self) -> None:
        assert size_at(1920, 1080, 512) == (512, 288)
        assert size_at(1080, 1920, 256) == (144, 256)
        assert size_at(4000, 10, 256) == (256, 16)


class TestBlockiness:
    def test_rises_with_jpeg_compression_and_only_on_the_grid(self) -> None:
        picture = texture(256, 256)
        values = []
        for quality in (95, 40, 15, 5):
            coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            values.append(blockiness(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)))
        assert values[0] < 0.1 < values[2] < values[3]
        assert values[1] < values[2]
        shifted = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)[4:, 4:]
        assert blockiness(np.ascontiguousarray(shifted)) < 0.1 < 0.5 < values[3]

    def test_is_zero_for_a_clean_picture_and_none_for_a_tiny_one(self) -> None:
        assert blockiness(texture(256, 256)) < 0.05
        assert blockiness(np.full((64, 64), 90, np.uint8)) == 0
        assert blockiness(np.zeros((16, 400), np.uint8)) is None


class TestBars:
    def framed(self, top: int, left: int) -> np.ndarray:
        out = np.full((288, 512), 2, np.uint8)
        out[top : 288 - top, left : 512 - left] = np.maximum(texture(288 - 2 * top, 512 - 2 * left), 40)
        return out

    @pytest.mark.parametrize(("top", "left"), [(0, 0), (36, 0), (0, 64), (20, 30)])
    def test_share_of_each_bar(self, top: int, left: int) -> None:
        found = bars(self.framed(top, left))
        assert found == pytest.approx((top / 288, top / 288, left / 512, left / 512), abs=0.005)
        assert found.letterbox == pytest.approx(2 * top / 288, abs=0.005)

    def test_a_logo_in_the_bar_does_not_hide_it(self) -> None:
        picture = self.framed(60, 0)
        picture[10:30, 280:480] = 200
        assert bars(picture).letterbox == pytest.approx(120 / 288, abs=0.005)

    def test_darkness_on_one_side_is_picture(self) -> None:
        picture = texture(288, 512)
        picture[:, :150] = 0
        assert bars(picture).pillarbox == 0

    def test_black_tells_nothing_and_lasting_takes_the_least(self) -> None:
        assert bars(np.zeros((288, 512), np.uint8)) is None
        assert lasting([]) is None
        assert lasting([Bars(0.2, 0.2, 0, 0), Bars(0.1, 0.3, 0, 0)]) == Bars(0.1, 0.2, 0, 0)

    def test_crop_is_on_even_pixels(self) -> None:
        assert Bars(0.125, 0.125, 0, 0).crop(1920, 1080) == (0, 136, 1920, 808)


class TestMotion:
    diagonal = float(np.hypot(72, 128))

    @pytest.mark.parametrize(("x", "y"), [(2, 0), (0, -1.5), (3, 2)])
    def test_a_shift_is_measured_in_diagonals_a_second(self, x: float, y: float) -> None:
        found = motion(PLAIN, moved(x=x, y=y), 0.1)
        assert found.speed == pytest.approx(np.hypot(x, y) / self.diagonal / 0.1, rel=0.12)
        assert found.pan == pytest.approx(-x / self.diagonal / 0.1, abs=0.012)
        assert found.tilt == pytest.approx(-y / self.diagonal / 0.1, abs=0.012)
        assert found.static < 0.05

    def test_half_the_time_is_twice_the_speed(self) -> None:
        after = moved(x=2)
        assert motion(PLAIN, after, 0.05).speed == pytest.approx(2 * motion(PLAIN, after, 0.1).speed)

    def test_zoom_and_roll(self) -> None:
        assert motion(PLAIN, moved(zoom=1.03), 0.1).zoom == pytest.approx(0.3, rel=0.15)
        turned = motion(PLAIN, moved(degrees=-1.5), 0.1)  # OpenCV counts against the clock
        assert turned.roll == pytest.approx(np.radians(15), rel=0.15)
        assert abs(turned.zoom) < 0.03

    def test_nothing_moves(self) -> None:
        found = motion(PLAIN, PLAIN.copy(), 0.1)
        assert found.speed < 0.002
        assert found.static > 0.99
        assert abs(found.pan) + abs(found.tilt) < 0.002

    def test_static_share_is_what_stands_still_and_the_camera_does_not_follow_an_object(self) -> None:
        after = PLAIN.copy()
        after[:, 96:] = moved(x=3)[:, 96:]
        found = motion(PLAIN, after, 0.1)
        assert found.static == pytest.approx(0.75, abs=0.08)
        assert abs(found.pan) < 0.02


class TestCamera:
    t = np.arange(40) / 10
    rest, step = np.zeros(40), np.full(40, 0.1)

    def test_shake_is_the_rms_of_the_jitter_and_not_of_a_steady_pan(self) -> None:
        jitter = np.random.default_rng(1).normal(0, 0.1, 400)
        seconds, rest = np.full(400, 0.1), np.zeros(400)
        assert shake(rest + 0.3, rest, seconds) == pytest.approx(0, abs=1e-9)
        once = shake(jitter, rest, seconds)
        assert once == pytest.approx(0.1 * np.sqrt(0.8), rel=0.1)  # a mean of five takes a fifth of the variance
        assert shake(3 * jitter + 0.3, rest, seconds) == pytest.approx(3 * once, rel=1e-6)

    @pytest.mark.parametrize(
        ("label", "moves"),
        [
            ("static", {}),
            ("pan", {"pan": 0.1}),
            ("tilt", {"tilt": -0.06}),
            ("zoom", {"zoom": 0.2}),
            ("roll", {"roll": -0.3}),
        ],
    )
    def test_label_names_the_greatest_steady_move(self, label: str, moves: dict[str, float]) -> None:
        series = [self.rest + moves.get(name, 0.0) for name in ("pan", "tilt", "zoom", "roll")]
        assert camera_motion(*series, jitter=0.004) == label

    def test_jitter_without_a_move_is_handheld(self) -> None:
        assert camera_motion(*[self.rest] * 4, jitter=0.08) == "handheld"
        assert camera_motion(self.rest + 0.03, *[self.rest] * 3, jitter=0.08) == "handheld"


class TestHash:
    def test_near_copies_are_near_and_others_far(self) -> None:
        picture = texture(144, 256, grain=30)
        small = cv2.resize(picture, (160, 90), interpolation=cv2.INTER_AREA)
        coded = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_GRAYSCALE)
        brighter = np.uint8(np.clip(picture * 1.1 + 10, 0, 255))
        for copy in (small, coded, brighter):
            assert distance([phash(picture)], [phash(copy)]) <= 4
        other = [phash(texture(144, 256, seed=s, grain=30)) for s in range(1, 9)]
        assert all(20 <= distance([phash(picture)], [o]) <= 44 for o in other)

    def test_distance_matches_each_with_its_nearest(self) -> None:
        assert distance([0b0, 0b1111], [0b1111, 0b1]) == 0.5
        assert distance([], [1]) == 64


class TestColours:
    def plain(self, rgb: tuple[int, int, int]) -> np.ndarray:
        r, g, b = (c / 255 for c in rgb)
        luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
        planes = (16 + 219 * luma, 128 + 224 * (b - luma) / 1.8556, 128 + 224 * (r - luma) / 1.5748)
        y, u, v = (np.full((18, 32), round(p), np.uint8) for p in planes)
        return signature(y, u, v)

    @pytest.mark.parametrize(
        ("rgb", "name"),
        [
            ((220, 30, 30), "red"),
            ((30, 180, 40), "green"),
            ((40, 60, 220), "blue"),
            ((230, 220, 40), "yellow"),
            ((240, 130, 30), "orange"),
            ((120, 70, 30), "brown"),
            ((130, 40, 200), "purple"),
            ((250, 130, 190), "pink"),
            ((250, 250, 250), "white"),
            ((128, 128, 128), "grey"),
            ((5, 5, 5), "black"),
        ],
    )
    def test_names(self, rgb: tuple[int, int, int], name: str) -> None:
        shares = colour_shares(self.plain(rgb)[None])
        assert shares[name] > 0.95
        assert dominant(shares) == [name]

    def test_shares_add_up(self) -> None:
        shares = colour_shares(np.stack([self.plain((220, 30, 30)), self.plain((40, 60, 220))]))
        assert shares["red"] == pytest.approx(0.5)
        assert sum(shares.values()) == pytest.approx(1)


class TestSignature:
    def sequence(self, *pictures: np.ndarray) -> np.ndarray:
        grey = np.full((72, 128), 128, np.uint8)
        return np.stack([signature(p, grey, grey) for p in pictures])

    def test_a_cut_peaks_at_the_first_new_frame_and_a_flash_does_not(self) -> None:
        old, new = texture(144, 256, 1, 30), texture(144, 256, 2, 30)
        white = np.full_like(old, 235)
        signatures = self.sequence(*[old] * 10, *[white] * 2, *[old] * 10, *[new] * 10)
        signal = cut_distance(Novelty(signatures, plane_weights(np.ones(SIZE, bool))), 4)
        assert int(signal.argmax()) == 22
        assert signal[22] > 10
        assert signal[10] == signal[12] == 0

    def test_small_motion_costs_nothing(self) -> None:
        wide = texture(144, 300, 3, 40)
        signatures = self.sequence(wide[:, :256].copy(), wide[:, 6:262].copy(), texture(144, 256, 4, 40))
        novelty = Novelty(signatures, plane_weights(np.ones(SIZE, bool)))
        same, other = novelty(np.array([0, 0]), np.array([1, 2]))
        assert same < 0.5
        assert other > 8

    def test_bars_with_a_logo_are_no_picture(self) -> None:
        frames = []
        for seed in range(6):
            picture = np.full((144, 256), 16, np.uint8)
            picture[48:96] = np.maximum(texture(48, 256, seed), 40)
            picture[8:24, 200:240] = 200
            frames.append(picture)
        cells = picture_cells(self.sequence(*frames))
        grid = cells[: 18 * 32].reshape(18, 32)
        assert grid[6:12].all()
        assert not grid[:6].any()
        assert not grid[12:].any()
