"""The page about the bundle format names every key of the manifest with its default, and the limits that hold."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dsops import chunks, golden, manifest, profile, strictjson
from dsops.dsse import MAX_ENVELOPE_BYTES
from dsops.manifest import Manifest, Task, TensorSpec
from dsops.profile import Profile, Signal
from dsops.signals import signals_of

PAGE = (Path(__file__).parents[2] / "docs/bundle-format.md").read_text()
SEE_THERE = "see there"


def models_of(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and those that it holds."""
    found = {model}
    for info in model.model_fields.values():
        for inner in vars(manifest).values():
            is_model = isinstance(inner, type) and issubclass(inner, BaseModel)
            if is_model and inner is not model and inner.__name__ in re.findall(r"\w+", str(info.annotation)):
                found |= models_of(inner)
    return found


def documented(name: str) -> dict[str, str]:
    """Return the default of each key in the table of one class."""
    text = PAGE.partition(f"### {name}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


def default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return SEE_THERE
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{json.dumps(plain)}`"


CLASSES = sorted(models_of(Manifest), key=lambda model: model.__name__)


def test_every_class_of_the_manifest_was_found() -> None:
    assert len(CLASSES) == 11


@pytest.mark.parametrize("model", CLASSES, ids=lambda model: model.__name__)
def test_every_key_is_on_the_page_with_its_default(model: type[BaseModel]) -> None:
    wanted = {name: default_of(info) for name, info in model.model_fields.items()}
    assert documented(model.__name__) == wanted


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("manifest", f"{manifest.MAX_MANIFEST_BYTES >> 20} MiB"),
        ("blobs", str(manifest.MAX_BLOBS)),
        ("whole file, to be sent in chunks", f"{(chunks.MAX_CHUNK_BYTES - 24) // 32 * chunks.MAX_CHUNK_BYTES:,} bytes"),
        ("inputs, outputs", f"{manifest.MAX_TENSORS} each"),
        ("dimensions of a tensor", str(manifest.MAX_RANK)),
        ("sealed record", f"{manifest.MIN_RECORD_BYTES:,} to {manifest.MAX_RECORD_BYTES:,} bytes"),
        ("nesting of JSON", str(strictjson.MAX_DEPTH)),
        ("golden frames", f"{golden.MAX_GOLDEN:,}"),
        ("golden values", f"{golden.MAX_GOLDEN_BYTES >> 20} MiB"),
        ("one size of a golden tensor", "2^24"),
        ("preprocessing", str(manifest.MAX_TENSORS)),
        ("kpis", str(manifest.MAX_KPIS)),
        ("hardware", str(manifest.MAX_HARDWARE)),
        ("metrics", f"{manifest.MAX_METRICS:,}, under names of 1 to 256 characters"),
        ("`datasets`, `parameters`, `facts`", f"{manifest.MAX_FACTS} entries each"),
        ("signals of a profile", str(profile.MAX_SIGNALS)),
        ("bins of a signal", f"{profile.MAX_BINS:,}"),
        ("horizons of a profile", f"{profile.MAX_HORIZONS}, each at most {profile.MAX_HORIZON:,}"),
        ("provenance", f"{MAX_ENVELOPE_BYTES >> 10} KiB"),
    ],
)
def test_every_limit_on_the_page_is_the_one_that_holds(what: str, limit: str) -> None:
    assert f"| {what} | {limit} |" in PAGE


def test_the_words_of_each_enumeration_are_on_the_page() -> None:
    schema = json.dumps(Manifest.model_json_schema())
    words = {word for found in re.findall(r'"enum": \[(.*?)\]', schema) for word in re.findall(r'"(\w+)"', found)}
    assert {"letterbox", "mean_absolute", "calibration", "reconstruction", "UINT8"} <= words
    assert [word for word in words if f"`{word}`" not in PAGE] == []


@pytest.mark.parametrize(
    ("start", "model"), [("**The reference profile**", Profile), ("A signal has six keys", Signal)]
)
def test_every_key_of_the_profile_is_on_the_page_with_its_default(start: str, model: type[BaseModel]) -> None:
    rows = PAGE.partition(start)[2].partition("|\n\n")[0]
    wanted = {name: default_of(info) for name, info in model.model_fields.items()}
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", rows, re.MULTILINE)) == wanted


def test_the_page_defines_exactly_the_signals_that_there_are() -> None:
    one_input = (TensorSpec(name="x", datatype="FP32", shape=(1, 4, 4, 1)),)
    wanted = {pair for task in Task for pair in signals_of(task, one_input).items()}
    row = (TensorSpec(name="x", datatype="FP32", shape=(1, 2)),)
    assert list(signals_of(Task.OTHER, row))[-2:] == ["input_1", "input_2"]
    section = PAGE.partition("### Signals\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"\| `(\w+)` \| (ordinal|categorical) \|", section)) == wanted
