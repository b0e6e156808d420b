"""The card of a dataset: what is in it, where it is from, what was left out and why. Markdown."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.publish.buckets import SPLITS, excluded_note
from data_prep.publish.metadata import card_configs
from stages.core.step import Row

BINS, BAR = 10, 30
SHOWN_METRICS = ("motion", "sharpness", "luma", "contrast", "duration_s", "n_frames")
MOST = 40


def card(manifest: Row, index: pa.Table, captions: pa.Table, sheets: Sequence[Row], yields: Mapping[str, Any]) -> str:
    """The whole card. Text that came with the footage is escaped."""
    parts = [
        _front(manifest, index),
        _head(manifest, index),
        _yields(yields, manifest),
        _counts("Licences", index, "licence", "not stated"),
        _labels(index),
        _captions(captions, index),
        _motion(index),
        _histograms(index),
        _buckets(index, sheets),
        _how(manifest),
        USE,
    ]
    return "\n\n".join(p.strip() for p in parts if p.strip()) + "\n"


def cell(value: Any) -> str:
    """Text as one cell of a table: no markup of its own, no line break."""
    text = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(value))).strip()
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", html.escape(text, quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(cell(v) for v in row)} |" for row in rows])


def _front(manifest: Row, index: pa.Table) -> str:
    size = next(label for limit, label in SIZES if index.num_rows < limit)
    lines = [f"pretty_name: {manifest['name']}", "task_categories:", "- text-to-video", "size_categories:", f"- {size}"]
    return "\n".join(["---", *lines, *card_configs([s for s in SPLITS if manifest[s]]), "---"])


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (math.inf, "n>1M"))


def _head(manifest: Row, index: pa.Table) -> str:
    sources = len(set(index["source_id"].to_pylist()))
    size = sum(index["size"].to_pylist()) / 1e6
    seconds: Counter[str] = Counter()
    for split, duration in zip(index["split"].to_pylist(), index["duration_s"].to_pylist(), strict=True):
        seconds[split] += duration
    rows = [(s, manifest[s], f"{seconds[s] / 60:.1f}") for s in SPLITS]
    notes = "".join(f"\n\n**{note}**" for note in [excluded_note(manifest["excluded"]), *manifest["notes"]] if note)
    return (
        f"# {manifest['name']}, version {manifest['version']}\n\n"
        f"{manifest['clips']} clips, {manifest['hours'] * 60:.1f} minutes, from {sources} sources; {size:.1f} MB. "
        f"Content `{manifest['fingerprint']}`.\n\n{table(('split', 'clips', 'minutes'), rows)}\n\n"
        "All clips of a source are in one split, by a hash of its bytes; adding sources never moves a clip to another "
        f"split.{notes}"
    )


def _yields(yields: Mapping[str, Any], manifest: Row) -> str:
    if not yields:
        return ""
    kept = yields["kept"]
    stages = [
        ("sources listed", yields["sources"], ""),
        ("readable sources", yields["sound"], _share(yields["sound"], yields["sources"])),
        ("clips between transitions", yields["clips"], ""),
        ("clips that pass every threshold", yields["passed"], _share(yields["passed"], yields["clips"])),
        ("clips kept (without copies)", kept, _share(kept, yields["clips"])),
        ("clips cut and published", manifest["clips"], _share(manifest["clips"], yields["clips"])),
    ]
    text = f"## Yield\n\n{table(('', 'count', 'share'), stages)}"
    if yields["reasons"]:
        rows = [(_failed(r), r["clips"], r["alone"]) for r in yields["reasons"][:MOST]]
        head = ("threshold", "clips that fail it", "clips that fail only this")
        text += f"\n\nWhat clips were rejected for:\n\n{table(head, rows)}"
    return text


def _failed(reason: Mapping[str, Any]) -> str:
    if reason["metric"] == "duplicate":
        return "copy of a better clip"
    return f"{reason['metric']} {reason['op']} {reason['threshold']}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _counts(title: str, index: pa.Table, column: str, empty: str) -> str:
    found = Counter(v or empty for v in index[column].to_pylist())
    rows = [(name, n) for name, n in found.most_common(MOST)]
    if len(found) > MOST:
        rows.append((f"{len(found) - MOST} others", sum(n for _, n in found.most_common()[MOST:])))
    return f"## {title}\n\n{table((column, 'clips'), rows)}"


def _labels(index: pa.Table) -> str:
    return _counts("Labels", index, "label", "none") if any(index["label"].to_pylist()) else ""


def _captions(captions: pa.Table, index: pa.Table) -> str:
    found = Counter(
        zip(*(captions[name].to_pylist() for name in ("kind", "model", "status")), strict=True)
        if captions.num_rows
        else []
    )
    without = sum(1 for text in index["caption"].to_pylist() if not text)
    rows = [(*key, n) for key, n in sorted(found.items())]
    told = f"{without} clips have no caption.\n\n" if without else ""
    return f"## Captions\n\n{told}{table(('kind', 'model', 'status', 'captions'), rows)}"


def _motion(index: pa.Table) -> str:
    """How diverse the movement is: labels of the camera's motion, and how evenly they are spread."""
    if "camera_motion" not in index.column_names:
        return ""
    found = Counter(v or "not measured" for v in index["camera_motion"].to_pylist())
    shares = np.array(list(found.values())) / index.num_rows
    spread = float(-(shares * np.log(shares)).sum() / math.log(len(found))) if len(found) > 1 else 0.0
    rows = [(name, n, _share(n, index.num_rows)) for name, n in found.most_common()]
    strength = Counter(index["bucket_motion"].to_pylist())
    told = ", ".join(f"{strength[k]} {k}" for k in ("low", "medium", "high", "unknown") if strength[k])
    return (
        f"## Motion diversity\n\nStrength of motion: {told}. Evenness of the camera's motions {spread:.2f} "
        f"(0: all the same, 1: as many of each).\n\n{table(('camera', 'clips', 'share'), rows)}"
    )


def _histograms(index: pa.Table) -> str:
    blocks = []
    for name in SHOWN_METRICS:
        if name in index.column_names:
            values = np.array([v for v in index[name].to_pylist() if isinstance(v, int | float)], float)
            values = values[np.isfinite(values)]
            if len(values) > 1 and np.ptp(values) > 0:
                blocks.append(f"{name}\n{histogram(values)}")
    return "## Histograms\n\n```text\n" + "\n\n".join(blocks) + "\n```" if blocks else ""


def histogram(values: np.ndarray) -> str:
    """Bars of text, the extreme hundredths in the outer bins."""
    low, high = np.quantile(values, (0.01, 0.99)) if len(values) > 100 else (values.min(), values.max())
    if low == high:
        low, high = values.min(), values.max()
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    return "\n".join(
        f"{edges[i]:>10.4g} to {edges[i + 1]:<10.4g} {n:>7} {'#' * math.ceil(BAR * n / counts.max())}".rstrip()
        for i, n in enumerate(counts)
    )


def _buckets(index: pa.Table, sheets: Sequence[Row]) -> str:
    found = Counter(index["bucket"].to_pylist())
    paths = {s["bucket"]: s["path"] for s in sheets}
    lines = ["## Buckets", "", "| bucket | clips | contact sheet |", "|---|---|---|"]
    for name, n in found.most_common():
        link = f"[sheet]({paths[name]})" if name in paths else ""
        lines.append(f"| {cell(name)} | {n} | {link} |")
    return "\n".join(lines)


def _how(manifest: Row) -> str:
    rows = sorted((k, _plain(v)) for k, v in manifest["settings"].items())
    lost = f"\n\n{_not_cut(manifest['not_cut'])}" if manifest["not_cut"] else ""
    return f"## How it was made\n\n{table(('key', 'value'), rows)}{lost}"


def _not_cut(count: int) -> str:
    one = count == 1
    return f"{count} kept clip{'' if one else 's'} could not be cut and {'is' if one else 'are'} not here."


def _plain(value: Any) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


USE = """
## How to read it

`index.parquet` has a row per clip: `uri` (relative to this folder), `caption`, `split`, `bucket`, size, length, the
span `[start_pts, end_pts)` of its source, licence, every score, and the other columns of the manifest that the footage
came with. `captions.parquet` has every caption by `clip_id`. `clips/SPLIT/metadata.parquet` has the rows of the index
by `file_name`, with a column for each kind of caption.

Every file was decoded when it was written, and each of its frames compared with the source.

```python
import pyarrow.parquet as pq

clips = pq.read_table("index.parquet", filters=[("split", "==", "train")])
```

```python
from datasets import load_dataset

clips = load_dataset(".", split="train")   # `val` is called validation; decoding needs torchcodec
```
"""
