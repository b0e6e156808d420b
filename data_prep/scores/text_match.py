"""Score: how well a clip shows what its footage is said to show, by a CLIP-like model. Needs the step `vectors`.

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
from stages.core.errors import BadInput
from stages.core.identity import digest
from stages.core.step import Job

BATCH = 64


class TextMatch(Job):
    """text_match, the mean cosine, -1 to 1, of a clip's pictures with its footage's caption, else its class label.

    Null where the footage came with neither.
    """

    version = 1
    writes = pa.schema([("id", pa.string()), ("clip_id", pa.string()), ("text_match", pa.float64())])
    weights = {"clip": ()}  # noqa: RUF012

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """clip, revision: the same model as that of the step `vectors`."""

        clip: str = ""
        revision: str = field(default="", metadata={"identity": False})
        device: str = field(default="auto", metadata={"identity": False})

        def __post_init__(self) -> None:
            if not self.clip:
                raise BadInput(f"steps.text_match.clip: {CHECKPOINT_ADVICE}, the same as steps.vectors.clip")

    def run(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """`vectors`, `clips` and `sources`."""
        text_of = {r["id"]: _words(r) for r in tables["sources"].select(["id", "caption", "label"]).to_pylist()}
        source_of = {r["clip_id"]: r["source_id"] for r in tables["clips"].select(["clip_id", "source_id"]).to_pylist()}
        vectors = tables["vectors"].select(["clip_id", "clip_vector"]).to_pylist()
        vector_of = self._spoken(sorted({text_of[s] for s in source_of.values() if text_of.get(s)}))
        rows = []
        clip_width, text_width = _width(r["clip_vector"] for r in vectors), _width(vector_of.values())
        if clip_width and text_width and clip_width != text_width:
            raise BadInput(
                f"steps.text_match.clip gives {text_width} numbers, steps.vectors.clip {clip_width}: "
                "give both the same model"
            )
        for row in sorted(vectors, key=lambda r: str(r["clip_id"])):
            text = text_of.get(source_of[row["clip_id"]], "")
            value = float(np.dot(row["clip_vector"], vector_of[text])) if text and row["clip_vector"] else None
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
        towers = TwoTowers(c.clip, c.revision, "steps.text_match.clip", c.device, self.workspace.threads)
        parts = [towers.texts(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return dict(zip(texts, np.concatenate(parts), strict=True))


def _width(vectors: Iterable[Sequence[float] | np.ndarray | None]) -> int:
    return next((len(v) for v in vectors if v is not None), 0)


def _words(source: dict[str, str]) -> str:
    return printable(source["caption"] or "", 1000) or label_prompt(source["label"] or "")
