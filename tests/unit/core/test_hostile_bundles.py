"""What containers are attacked with is refused when a bundle is opened: before a byte is written, in bounded memory."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.bundle import Bundle, describe_blobs
from dsops.errors import DigestMismatch, MalformedBundle
from dsops.manifest import Manifest, TensorSpec

BLOBS = {"golden.bin": b"gold", "model.tflite": b"TFL3" * 9, "profile.json": b"{}"}
Content = dict[str, Any]
Edit = Callable[[Content], object]


def content() -> Content:
    image = TensorSpec(name="image", datatype="INT8", shape=(1, 8, 8, 1), scale=0.1)
    scores = TensorSpec(name="scores", datatype="INT8", shape=(1, 2), scale=0.004)
    made = Manifest(
        model="digits", release=1, labels=("a", "b"), inputs=(image,), outputs=(scores,), blobs=describe_blobs(BLOBS)
    )
    return json.loads(made.encode())


def text(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def container(manifest: bytes, body: bytes = b"".join(BLOBS.values()), **head: int) -> bytes:
    said = {"version": 1, "length": len(manifest)} | head
    return struct.pack("<8sII", b"DSOPSBND", said["version"], said["length"]) + manifest + body


def rename(name: str) -> Edit:
    """Return an edit that gives the golden inputs' blob another name, everywhere."""

    def edit(value: Content) -> None:
        value["golden"] = value["blobs"][0]["name"] = name

    return edit


def many(count: int) -> Edit:
    """Return an edit that adds empty blobs, each named by an attachment."""

    def edit(value: Content) -> None:
        names = [f"x{number:07}" for number in range(count)]
        empty = describe_blobs({"x": b""})[0].sha256
        value["blobs"] += [{"name": name, "size_bytes": 0, "sha256": empty} for name in names]
        value["files"] = [{"blob": name, "kind": "config"} for name in names]

    return edit


def test_the_unchanged_container_is_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(container(text(content())))
    Bundle.open(tmp_path / "x").verify()


NAMES = [
    "../golden.bin", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:x", "-rf", ".hidden", "a\0b", "a\nb", "a b", "A",
    "é", "\ud800", "golden\u202enib", "x" * 65, "con:", "a%2fb", "~root",
]  # fmt: skip
EDITS: dict[str, Edit] = {
    **{f"name {name[:12]!a}": rename(name) for name in NAMES},
    "the same name twice": lambda v: v["blobs"].insert(0, v["blobs"][0]),
    "one blob for two parts": lambda v: v.update(golden="profile.json"),
    "a blob that no part names": lambda v: v["blobs"].append(v["blobs"][0] | {"name": "z", "size_bytes": 0}),
    "a symbolic link": lambda v: v["blobs"][0].update(link="/etc/passwd"),
    "a mode": lambda v: v["blobs"][0].update(mode=0o4755),
    "257 blobs": many(254),
    "a negative length": lambda v: v["blobs"][0].update(size_bytes=-4),
    "a length that is a text": lambda v: v["blobs"][0].update(size_bytes="4"),
    "a length that is a real number": lambda v: v["blobs"][0].update(size_bytes=4.0),
    "a length beyond the file": lambda v: v["blobs"][0].update(size_bytes=2**62),
    "a length of 2^64": lambda v: v["blobs"][0].update(size_bytes=2**64),
    "a release that is true": lambda v: v.update(release=True),
    "a release beyond 2^31": lambda v: v.update(release=2**31),
    "a shape of zeros": lambda v: v["inputs"][0].update(shape=[0]),
    "a shape of nine dimensions": lambda v: v["inputs"][0].update(shape=[1] * 9),
    "65 outputs": lambda v: v.update(outputs=[v["outputs"][0] | {"name": f"o{n}"} for n in range(65)]),
    "an unknown key": lambda v: v.update(script="#!/bin/sh"),
    "a missing key": lambda v: v.pop("kpis"),
    "another format": lambda v: v.update(format=2),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_a_hostile_manifest_is_refused(tmp_path: Path, edit: Edit) -> None:
    value = content()
    edit(value)
    (tmp_path / "x").write_bytes(container(text(value)))
    with pytest.raises(MalformedBundle):
        Bundle.open(tmp_path / "x")


def said(old: str, new: str) -> bytes:
    """Return the manifest's text with one place changed."""
    written = text(content())
    assert written.count(old.encode()) == 1
    return written.replace(old.encode(), new.encode())


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"PK\x03\x04" + b"\0" * 40,
    "no object": b"[]",
    "UTF-16": text(content()).decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + text(content()),
    "a broken character": said('"digits"', '"dig\\udc80its"'),
    "a key twice": said('"release":1', '"release":1,"release":1'),
    "NaN": said('"threshold":null', '"threshold":NaN'),
    "an infinity": said('"threshold":null', '"threshold":-Infinity'),
    "a number beyond binary64": said('"threshold":null', '"threshold":1e999'),
    "an integer of 5,000 digits": said('"release":1', '"release":1' + "0" * 5000),
    "100,000 levels": b'{"metrics":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a million entries": text(content() | {"kpis": ["a"] * 1_000_000}),
    "white space": said('"release":1', '"release": 1'),
    "an escape that need not be": said('"digits"', '"\\u0064igits"'),
    "another form of a number": said('"max_latency_ms":0.0', '"max_latency_ms":0e0'),
    "text after the end": text(content()) + b" ",
}


@pytest.mark.parametrize("manifest", TEXTS.values(), ids=TEXTS.keys())
def test_a_hostile_text_is_refused_in_bounded_memory(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "x").write_bytes(container(manifest))
    tracemalloc.start()
    with pytest.raises(MalformedBundle):
        Bundle.open(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize(
    "data",
    [
        container(text(content()), version=0),
        container(text(content()), version=2),
        container(text(content()), length=0),
        container(text(content()), length=len(text(content())) - 1),
        container(text(content()), length=len(text(content())) + 1),
        container(text(content()), length=0xFFFFFFFF),
        container(text(content()), b""),
        container(text(content()), b"".join(BLOBS.values()) + b"hidden"),
        b"hidden" + container(text(content())),
        container(text(content()))[:16],
        b"DSOPSBND",
        b"",
    ],
)
def test_a_hostile_head_or_length_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(MalformedBundle):
        Bundle.open(tmp_path / "x")


def test_swapped_contents_are_refused_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(container(text(content()), b"".join(BLOBS.values())[::-1]))
    bundle = Bundle.open(tmp_path / "x")
    for name in BLOBS:
        with pytest.raises(DigestMismatch):
            bundle.read(name)
