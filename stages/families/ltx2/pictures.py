"""Pictures compressed as those were that LTX-2 learned from."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt


def compressed(picture: npt.NDArray[np.uint8], crf: int) -> Any:
    """A picture [H, W, 3] through x264 and back at this quality, as the PIL image that the pipelines take; 0 leaves it.

    The library does the same, with as many threads as the machine has: each takes a slice of the picture, so that
    another machine would make another one. Here it is one thread.
    """
    import av
    from PIL import Image

    if not crf:
        return Image.fromarray(picture)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.thread_count = picture.shape[0], picture.shape[1], 1
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    with av.open(io.BytesIO(file.getvalue()), "r") as container:
        found = next(container.decode(video=0))
        return Image.fromarray(found.to_ndarray(format="rgb24"))
