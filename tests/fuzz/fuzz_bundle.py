"""Fuzzes what reads a bundle: container, manifest, golden inputs, profile, strict JSON.

A file is refused with one of the errors that its reader promises; what is accepted survives the way back into bytes.
"""

import os
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dsops"]):
    from dsops import strictjson
    from dsops.bundle import MAGIC, VERSION, Bundle
    from dsops.errors import DigestMismatch, MalformedBundle
    from dsops.golden import GoldenSet
    from dsops.manifest import Manifest
    from dsops.profile import Profile

HANDLE = os.memfd_create("bundle")
FILE = Path(f"/proc/self/fd/{HANDLE}")


def check(data: bytes) -> None:
    check_json(data)
    check_manifest(data)
    check_golden(data)
    check_profile(data)
    check_container(data)
    check_container(struct.pack("<8sII", MAGIC, VERSION, len(data)) + data)


def check_json(data: bytes) -> None:
    try:
        value = strictjson.loads(data)
    except strictjson.JsonRefused:
        return
    try:
        written = strictjson.dumps(value)
    except UnicodeEncodeError:
        return  # half a surrogate pair is JSON (RFC 8259, section 8.2), and no text that can be written
    assert strictjson.dumps(strictjson.loads(written)) == written


def check_manifest(data: bytes) -> None:
    try:
        manifest = Manifest.decode(data)
    except MalformedBundle:
        return
    assert manifest.encode() == data


def check_golden(data: bytes) -> None:
    try:
        golden = GoldenSet.decode(data)
    except MalformedBundle:
        return
    assert GoldenSet.decode(golden.encode()) == golden


def check_profile(data: bytes) -> None:
    try:
        profile = Profile.decode(data)
    except MalformedBundle:
        return
    assert Profile.decode(profile.encode()) == profile


def check_container(data: bytes) -> None:
    os.ftruncate(HANDLE, 0)
    os.pwrite(HANDLE, data, 0)
    try:
        bundle = Bundle.open(FILE)
        bundle.verify()
    except (MalformedBundle, DigestMismatch):
        return
    held = b"".join(bundle.read(blob.name) for blob in bundle.manifest.blobs)
    assert data.endswith(bundle.manifest.encode() + held)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
