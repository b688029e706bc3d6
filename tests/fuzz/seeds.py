"""Writes the real, small files that fuzzing begins with, a folder for each target: ``seeds.py FOLDER``.

The folders of the unit tests that make them have to be on the path.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import tflite_graphs
from runtime_bundles import make_bundle
from sound_models import float_model, quantized_model

from dsops.bundle import Bundle
from dsops_controller.build.quantization.quantize import QuantMode

FAMILIES = ("lenet", "lstm", "yolo_head", "transformer", "unet", "text")
LARGEST_BYTES = 24_000


def models() -> Iterator[tuple[str, bytes]]:
    yield "dense", tflite_graphs.dense(6, 4, softmax=True)
    yield "convolution", tflite_graphs.convolution(2, 4)
    yield "depthwise", tflite_graphs.convolution(2, 2, depthwise=True)
    yield "recurrent", tflite_graphs.recurrent()
    yield "lookup", tflite_graphs.lookup()
    yield "lenet-int8", quantized_model("lenet", QuantMode.INT8)
    for family in FAMILIES:
        yield family, float_model(family)


def parts_of_a_bundle(folder: Path) -> Iterator[tuple[str, bytes]]:
    path = make_bundle(folder).path
    bundle = Bundle.open(path)
    yield "container", path.read_bytes()
    yield "manifest", bundle.manifest.encode()
    for blob in bundle.manifest.blobs:
        yield blob.name, bundle.read(blob.name)
    path.unlink()


def main(folder: Path) -> None:
    for target, seeds in (("fuzz_lint", models()), ("fuzz_bundle", parts_of_a_bundle(folder))):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            if len(data) <= LARGEST_BYTES:
                (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
