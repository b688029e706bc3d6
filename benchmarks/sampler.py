"""Are the samples that a device returns worth more than frames taken at random, with the same number of labels?

The sampler under its default policy, with a budget for N samples, watches a stream of 4,000 digits of which 40 % come
from a tilted camera, and classes 8 and 9 are eight times rarer than the others. What it keeps is labelled and the model
is trained anew with it; so it is with as many frames taken at random. Both are judged on tilted frames that nobody has
seen. One run is one seed: another split, another training, another stream.
"""

import statistics
import sys
from collections.abc import Sequence

from measure.report import Limit, Report, Row, run
from measure.returning import judge, make_scene, returned_at_random, returned_by_the_sampler

from dsops_controller.demo.train import accuracy

SEEDS = 8
COUNTS = (100, 200, 400)
GAIN_LIMITS = {100: Limit("figure", ">=", 1.5), 200: Limit("figure", ">=", 1.5)}
BALANCE_LIMIT = Limit("figure", ">=", 8.0)


def measure() -> Report:
    """Measure every seed."""
    before: list[float] = []
    found: dict[tuple[str, int, bool], list[tuple[float, float]]] = {}
    labels: dict[int, list[int]] = {count: [] for count in COUNTS}
    for seed in range(1, SEEDS + 1):
        scene = make_scene(seed)
        before.append(accuracy(scene.weights, scene.judged))
        for count in COUNTS:
            ours = returned_by_the_sampler(scene, count)
            theirs = returned_at_random(scene, len(ours))
            labels[count].append(len(ours))
            for balanced in (False, True) if count == COUNTS[-1] else (False,):
                found.setdefault(("ours", count, balanced), []).append(judge(scene, ours, balanced=balanced))
                found.setdefault(("random", count, balanced), []).append(judge(scene, theirs, balanced=balanced))
    rows = [Row("accuracy on tilted frames before, percent", "%", _percent(before))]
    for count in COUNTS:
        ours, theirs = ([one[0] for one in found[who, count, False]] for who in ("ours", "random"))
        gain = [mine - other for mine, other in zip(ours, theirs, strict=True)]
        rows += [
            Row(f"after {count} returned samples", "%", _percent(ours), _percent(theirs), "as many at random"),
            Row(f"gain over frames at random, {count}", "points", _percent(gain), limit=GAIN_LIMITS.get(count)),
            Row(f"labels that the sampler asked for, of {count}", "", statistics.mean(labels[count])),
        ]
    most = COUNTS[-1]
    for who, name in (("ours", "samples"), ("random", "frames at random")):
        plain, balanced = ([one[1] for one in found[who, most, how]] for how in (False, True))
        lift = [after - first for first, after in zip(plain, balanced, strict=True)]
        limit = BALANCE_LIMIT if who == "ours" else None
        rows += [
            Row(
                f"rare classes after {most} {name}, balanced", "%", _percent(balanced), _percent(plain), "not balanced"
            ),
            Row(f"gain by balancing, {most} {name}", "points", _percent(lift), limit=limit),
        ]
    facts = {"seeds": SEEDS, "stream_frames": 4000, "figures": "means over the seeds"}
    return Report("sampler", "Returned samples against frames at random", facts, tuple(rows))


def _percent(shares: Sequence[float]) -> float:
    return 100.0 * statistics.mean(shares)


if __name__ == "__main__":
    sys.exit(run(measure))
