"""Figures of the demonstration as text."""

from dsops_controller.demo.commands import Json


def latency_us(measured: Json) -> float:
    """Return the median time of one frame."""
    return float(measured["latencies"][0]["median_us"])


def telemetry_line(row: Json) -> str:
    """Return what the newest telemetry of a model says."""
    latency = f"p50 {row['p50_us']:.0f} us, p95 {row['p95_us']:.0f} us"
    return f"{row['count']} answers, {latency}, confidence {row['confidence']:.3f}, bundle {row['digest'][:12]}..."
