"""What a stored or delivered file is: its size, its frames, whether it has sound."""

from __future__ import annotations

from pathlib import Path

from stages.core.media import opened
from stages.core.picture_tags import READ


def has_sound(path: Path) -> bool:
    """Whether a stored mp4 has a stream of sound. Raises BadMedia."""
    with opened(path) as container:
        return bool(container.streams.audio)


def facts_of(path: Path) -> dict[str, int]:
    """`bytes`, `width`, `height` and `frames` of a delivered file, or of a folder of frames. Raises BadMedia,
    OSError."""
    if path.is_dir():
        frames = sorted(path.iterdir())
        return {**_picture_facts(frames[0]), "bytes": sum(p.stat().st_size for p in frames), "frames": len(frames)}
    if path.suffix in (".gif", ".webp"):
        return _picture_facts(path)
    with opened(path) as container:
        stream = container.streams.video[0]
        size = {"width": stream.width, "height": stream.height}
        count = sum(1 for packet in container.demux(stream) if packet.size)
    return {"bytes": path.stat().st_size, **size, "frames": count}


def _picture_facts(path: Path) -> dict[str, int]:
    from PIL import Image

    with Image.open(path, formats=READ) as found:
        size = {"width": found.width, "height": found.height, "frames": getattr(found, "n_frames", 1)}
    return {"bytes": path.stat().st_size, **size}
