"""What the state database knows of 10,000 devices that report drift of two models each: few of them are in trouble."""

import random
from collections.abc import Iterator

from sqlalchemy import func, insert, select

from dsops import strictjson
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device, drift_newest, stream

SIGNALS = ("confidence", "margin", "entropy", "predicted_class", "brightness", "contrast", "sharpness", "out_of_range")
DRIFTED = 0.02
Row = dict[str, object]


def fill(db: Database, devices: int, models: int, now_ms: int) -> None:
    """Add devices, streams and drift reports where there are none yet."""
    draw = random.Random(7)
    names = [f"camera-{number:06d}" for number in range(devices)]
    with db.write() as connection:
        if connection.execute(select(func.count()).select_from(drift_newest)).scalar_one():
            return
        accepted = [{"id": name, "state": "accepted", "created_ms": now_ms, "online": True} for name in names]
        connection.execute(insert(device), accepted)
        connection.execute(insert(stream), [one for name in names for one in _streams(name, now_ms)])
        reports = [_report(draw, name, f"model-{model}", now_ms) for name in names for model in range(models)]
        connection.execute(insert(drift_newest), reports)


def _streams(name: str, now_ms: int) -> Iterator[Row]:
    for number, kind in enumerate(("telemetry", "samples")):
        counts = {"seq": 100, "stored": 100, "produced": 100, "dropped": 0, "updated_ms": now_ms}
        yield {"device": name, "stream": f"{number:032x}", "kind": kind, **counts}


def _report(draw: random.Random, name: str, model: str, now_ms: int) -> Row:
    has_drifted = draw.random() < DRIFTED
    signals = {signal: {"cusum": draw.uniform(-2, 6), "thinning": 3} for signal in SIGNALS}
    times = dict.fromkeys(("time_ms", "heard_ms", "since_ms", "epoch_ms"), now_ms)
    frames = dict.fromkeys(("frames", "epoch_frames"), 1000)
    e_values = {"log_e": draw.gauss(-1, 1) + 20 * has_drifted, "log_e_before": draw.gauss(-1, 1)}
    return {
        "device": name,
        "model": model,
        "release": draw.randint(1, 4),
        "digest": "a" * 64,
        "state": "drift" if has_drifted else "ok",
        "onset_ms": now_ms if has_drifted else 0,
        "score": draw.uniform(0, 3),
        "skew": "ok",
        "skew_facts": '{"frames":1000,"p_value":0.4,"signals":[]}',
        "signals": strictjson.dumps(signals).decode(),
        **times,
        **frames,
        **e_values,
    }
