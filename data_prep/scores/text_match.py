"""Score: how well a clip fits the caption or label of its footage, by a CLIP-like model. Needs the step `vectors`.

A job over all clips and not a step, because captions and labels come with the listing: when a manifest changes, only
this is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from data_prep.captions.text import label_prompt, printable
from data_prep.models.clip_model import CHECKPOINT_ADVICE
from stages.core.errors import BadInput, require
from stages.core.identity import digest
from stages.core.step import Inputs, Job, Port
from stages.core.weights.checkpoint import device_rule

BATCH = 64


class TextMatch(Job):
    """text_match, the mean cosine, -1 to 1, of a clip's pictures with its footage's caption, else its class label.

    Null where the footage came with neither.
    """

    kind = "scores"
    version = 1
    writes = pa.schema([("id", pa.string()), ("clip_id", pa.string()), ("text_match", pa.float64())])
    weights = {"clip": ()}  # noqa: RUF012

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Which model compares pictures with text.

        clip      folder or hub id of the CLIP checkpoint that the step `vectors` uses; required
        revision  revision of a hub id
        device    [auto, cpu, cuda] where the model runs; `auto` is a GPU where there is one
        """

        clip: str = ""
        revision: str = field(default="", metadata={"identity": False})
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            if not self.clip:
                raise BadInput(f"clip: {CHECKPOINT_ADVICE}, the same as vectors.clip")
            require(device_rule(self.device))

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The vectors of all clips, and what came with their footage."""
        return Inputs(ports={"vectors": Port(kind="scores", columns=("clip_vector",))}, units=("caption", "label"))

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`vectors` of the clips, and the sources as `units`."""
        said = {r["id"]: _words(r) for r in tables["units"].select(["id", "caption", "label"]).to_pylist()}
        vectors = tables["vectors"].select(["unit_id", "clip_id", "clip_vector"]).to_pylist()
        spoken = self._spoken(sorted({said[r["unit_id"]] for r in vectors} - {""}))
        rows = []
        given, own = _width(r["clip_vector"] for r in vectors), _width(spoken.values())
        if given and own and given != own:
            raise BadInput(f"text_match.clip gives {own} numbers, vectors.clip {given}: give the same model")
        for row in sorted(vectors, key=lambda r: str(r["clip_id"])):
            text = said[row["unit_id"]]
            value = float(np.dot(row["clip_vector"], spoken[text])) if text and row["clip_vector"] else None
            rows.append(
                {"id": digest("text_match", row["clip_id"], value), "clip_id": row["clip_id"], "text_match": value}
            )
        return pa.Table.from_pylist(rows, self.writes)

    def _spoken(self, texts: list[str]) -> dict[str, np.ndarray]:
        """The unit vector of every text."""
        from data_prep.models.clip_model import TwoTowers

        if not texts:
            return {}
        c = self.config
        towers = TwoTowers(c.clip, c.revision, "text_match.clip", c.device, self.workspace.threads)
        parts = [towers.texts(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return dict(zip(texts, np.concatenate(parts), strict=True))


def _width(vectors: Iterable[Sequence[float] | np.ndarray | None]) -> int:
    return next((len(v) for v in vectors if v is not None), 0)


def _words(source: dict[str, str]) -> str:
    return printable(source["caption"] or "", 1000) or label_prompt(source["label"] or "")
