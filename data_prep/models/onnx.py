"""ONNX models on a CPU through OpenCV, and what such a file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_onnx(path: Path, threads: int = 1) -> Any:
    """A network of `cv2.dnn`. Another number of threads may change the last digits, so it is stated."""
    import cv2

    cv2.setNumThreads(threads)
    return cv2.dnn.readNetFromONNX(str(path), cv2.dnn.ENGINE_NEW)


def onnx_metadata(path: Path) -> dict[str, str]:
    """The `metadata_props` of an ONNX file (field 14 of its ModelProto), read without the onnx package."""
    data, metadata = path.read_bytes(), {}
    for number, value in _fields(data):
        if number == 14:
            entry = dict(_fields(value))
            metadata[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
    return metadata


def _fields(data: bytes) -> Any:
    """(field number, bytes) of each length-delimited field of a protobuf message; others are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 2:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:
            _, at = _varint(data, at)
        else:
            at += {1: 8, 5: 4}[key & 7]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
