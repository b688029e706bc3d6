"""The throw-away process in which a candidate is tried: ``python -m dsops_agent.runtime.prove BUNDLE --threads N``.

With ``--sealed`` it reads the content key from its standard input, which no other process can look at.

It prints one JSON object and exits with 0, whether the bundle is good or not. When a hostile payload crashes it, or
makes it hang, there is no object: the parent takes that for :class:`dsops.errors.RuntimeCrashed`, and sets the limits
on memory and time.
"""

import argparse
import json
import logging
import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.errors import (
    DelegateMissing,
    DsopsError,
    IncompatibleBundle,
    InvalidModel,
    OverMemory,
    OverSize,
    RuntimeTooOld,
    TooSlow,
)
from dsops.needs import is_new_enough
from dsops.sealing import KEY_BYTES, ContentKey
from dsops_agent.drift.monitor import DriftMonitor
from dsops_agent.runtime.delegate import Access, Delegate, access_to
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.golden import check_golden, try_batches
from dsops_agent.runtime.lifeline import end_with
from dsops_agent.runtime.litert import Runtime, find_runtime
from dsops_agent.runtime.memory import peak_bytes
from dsops_agent.runtime.own_output import own_output
from dsops_agent.runtime.placement import place

logger = logging.getLogger(__name__)

TIMED_FRAMES = 100
TURNS = 3
"""How often candidate and champion answer their golden inputs in turns."""
NOTABLE_MS = 0.5
"""A candidate this quick is not compared with the champion: nobody notices the difference."""
TIMED_S = 2.0
"""The golden inputs are repeated until there are so many timed frames, or so much time in the interpreter."""


@dataclass(frozen=True)
class Bounds:
    """What a candidate is held to besides its own budgets.

    Attributes:
        threads: Threads of the interpreter.
        max_latency_ms: Limit of the median; 0 sets none.
        champion: The bundle that answers now; None compares with nothing.
        slowdown: How many times the champion's median latency a candidate may take.
        delegate: The accelerator of this device.
        delegate_problem: Why the data process does not use it; then neither does the proof.
        is_challenger: Whether a challenger is proved.
    """

    threads: int = 1
    max_latency_ms: float = 0.0
    champion: Path | None = None
    slowdown: float = 0.0
    delegate: Delegate | None = None
    delegate_problem: str = ""
    is_challenger: bool = False

    @cached_property
    def access(self) -> Access:
        """What can be done with the accelerator here."""
        return access_to(self.delegate, self.delegate_problem, is_challenger=self.is_challenger)


def prove(path: Path, bounds: Bounds, key: ContentKey | None = None) -> dict[str, object]:
    """Load a bundle, check golden inputs and budgets of latency, memory and disk, and compare it with the champion.

    A bundle that will run on a delegate which only the data process can use is tried on the processor, whose latency is
    not judged. One that the processor does not run is only looked through: the data process asks it its golden inputs.

    Args:
        path: The bundle file.
        bounds: What it is held to.
        key: The content key of a sealed bundle.

    Raises:
        BundleError: The bundle is damaged, sealed, cannot be loaded, or answers wrongly (GoldenMismatch).
        IncompatibleBundle: It is too slow or too large for this device, or its runtime too old: TooSlow, OverMemory,
            OverSize, RuntimeTooOld, DelegateMissing.
    """
    bundle = Bundle.open(path)
    digest, length_bytes = file_digest(path)
    budgets = bundle.manifest.budgets
    check_budget(OverSize, "the bundle takes {} bytes of disk", length_bytes, budgets.max_disk_bytes)
    check_runtime(find_runtime(), bundle.manifest.compatibility.min_litert)
    unproven = bounds.access.unproven
    told = {"ok": True, "model": bundle.manifest.model, "release": bundle.manifest.release, "digest": digest}
    try:
        served = _load(bundle, digest, bounds, key)
    except DelegateMissing:
        if not unproven:
            raise
        return told | {"unproven": f"{unproven}; the processor does not run the model"}
    try_drift(served)
    p50_ms, p95_ms = measure_latency_ms(served)
    try_batches(served)
    rss_bytes = peak_bytes()
    limits_ms = [limit for limit in (bounds.max_latency_ms, budgets.max_latency_ms) if limit]
    if not unproven and limits_ms and p50_ms > min(limits_ms):
        raise TooSlow(f"a frame takes {p50_ms:.3f} ms on this device", why=f"the limit is {min(limits_ms):g} ms")
    check_budget(OverMemory, "the model takes {} bytes of memory on this device", rss_bytes, budgets.max_memory_bytes)
    if not unproven and not limits_ms and p50_ms > NOTABLE_MS:
        compare_latency(served, bounds)
    runtime = str(served.loaded.runtime)
    figures = {"latency_ms": p50_ms, "p95_ms": p95_ms, "rss_bytes": rss_bytes, "runtime": runtime}
    return told | figures | {"unproven": unproven}


def _load(bundle: Bundle, digest: str, bounds: Bounds, key: ContentKey | None) -> ServedModel:
    """Load the candidate; what fails for want of memory, or of the delegate, is told as that."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    access = bounds.access
    try:
        return load_bundle(bundle, digest, bounds.threads, key, delegate=access.found)
    except DelegateMissing as error:
        why = "; ".join(filter(None, (error.why, access.why_not)))
        raise DelegateMissing(error.what, why=why) from error
    except InvalidModel as error:
        if (
            error.why or limit_bytes == resource.RLIM_INFINITY
        ):  # LiteRT gives no reason when memory runs out, and else does
            raise
        why = f"it may have {limit_bytes} bytes of address space on this device"
        raise OverMemory("the model needs more memory than it may have", why=why) from error


def compare_latency(served: ServedModel, bounds: Bounds) -> None:
    """Compare a candidate's latency with the champion's, in turns, so that both see the same load of the device.

    A champion that cannot be measured here, because it is sealed or damaged, is no measure: nothing is compared.

    Raises:
        TooSlow: Its median is more than ``slowdown`` times the champion's.
    """
    champion = _load_champion(bounds)
    if champion is None:
        return
    ours_us: list[float] = []
    theirs_us: list[float] = []
    for _ in range(TURNS):
        ours_us.extend(check_golden(served))
        theirs_us.extend(check_golden(champion))
    ours_ms, theirs_ms = percentile(ours_us, 0.5) / 1000, percentile(theirs_us, 0.5) / 1000
    if ours_ms > bounds.slowdown * theirs_ms:
        raise TooSlow(
            f"a frame takes {ours_ms:.3f} ms on this device, {ours_ms / theirs_ms:.1f} times the active release's",
            why=f"without a latency budget of its own a bundle may take {bounds.slowdown:g} times as long",
        )


def _load_champion(bounds: Bounds) -> ServedModel | None:
    if bounds.champion is None or not bounds.slowdown:
        return None
    try:
        bundle = Bundle.open(bounds.champion)
        champion = load_bundle(
            bundle, file_digest(bounds.champion)[0], bounds.threads, is_proved=True, delegate=bounds.access.found
        )
        check_golden(champion)
    except DsopsError as error:
        logger.warning("the active release is not compared with: %s", error)
        return None
    return champion


def try_drift(served: ServedModel) -> None:
    """Arm a drift monitor and feed it once: a profile that it cannot work with shall fail here, not in service."""
    monitor = DriftMonitor(served.profile)
    monitor.feed({name: [0.0] for name in monitor.watched})


def check_budget(error: type[IncompatibleBundle], what: str, used: int, budget: int) -> None:
    """Compare what is used with what the manifest allows; 0 sets no limit.

    Raises:
        IncompatibleBundle: It is more; ``error`` is its class.
    """
    if budget and used > budget:
        raise error(what.format(used), why=f"its budget is {budget}", used=used, budget=budget)


def check_runtime(runtime: Runtime, min_litert: str) -> None:
    """Check that the runtime is no older than a bundle needs; tflite-runtime is older than every LiteRT.

    Raises:
        RuntimeTooOld: It is.
    """
    if not is_new_enough(runtime.name, runtime.version, min_litert):
        raise RuntimeTooOld(f"this device has {runtime}", why=f"the bundle needs LiteRT {min_litert}")


def measure_latency_ms(served: ServedModel) -> tuple[float, float]:
    """Return median and 95th percentile of the time in the interpreter, in milliseconds, over right golden answers.

    Raises:
        GoldenMismatch: An answer is not right; see :func:`dsops_agent.runtime.golden.check_golden`.
    """
    served.warm_up()
    times_us = list(check_golden(served))
    while len(times_us) < TIMED_FRAMES and sum(times_us) < TIMED_S * 1e6:
        times_us.extend(check_golden(served))
    return percentile(times_us, 0.50) / 1000, percentile(times_us, 0.95) / 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof and print its result."""
    parser = argparse.ArgumentParser(prog="dsops_agent.runtime.prove", description="Tries one bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-latency-ms", type=float, default=0.0)
    parser.add_argument("--champion", type=Path)
    parser.add_argument("--slowdown", type=float, default=0.0)
    parser.add_argument("--sealed", action="store_true")
    parser.add_argument("--delegate", default="", help="JSON")
    parser.add_argument("--delegate-problem", default="", help="why the data process does not use it")
    parser.add_argument("--challenger", action="store_true", help="not for the process that has the delegate")
    parser.add_argument("--parent", type=int, default=0, help="the process with which this one ends")
    parser.add_argument("--cpus", type=int, nargs="*", default=[])
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.parent:
        end_with(options.parent)
    output = own_output()
    place(options.cpus, options.nice)
    try:
        key = ContentKey(sys.stdin.buffer.read(KEY_BYTES + 1)) if options.sealed else None
        delegate = Delegate.model_validate_json(options.delegate) if options.delegate else None
        bounds = Bounds(
            threads=options.threads,
            max_latency_ms=options.max_latency_ms,
            champion=options.champion,
            slowdown=options.slowdown,
            delegate=delegate,
            delegate_problem=options.delegate_problem,
            is_challenger=options.challenger,
        )
        result = prove(options.bundle, bounds, key)
    except DsopsError as error:
        result = {"ok": False, "error": error.as_dict()}
    except MemoryError:
        refused = OverMemory("the model needs more memory than it may have on this device")
        result = {"ok": False, "error": refused.as_dict()}
    print(json.dumps(result), file=output, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
