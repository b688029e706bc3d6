"""How hot the device is."""

import psutil


def hottest_c() -> float:
    """Return the hottest reading, degrees Celsius, or 0; boards name their sensors as they like."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((float(entry.current) for entries in sensors.values() for entry in entries), default=0.0)
