"""``dsops demo``: the whole loop on this machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dsops_controller.cli import session


def demo(
    devices: Annotated[int, typer.Option("--devices", min=2, max=50, help="number of devices")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="decides data, training and which camera goes bad")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end, until Ctrl-C")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="write every figure to this file")] = None,
) -> None:
    """Show the whole loop: train, sign, push, install, infer, drift, retrain, refuse a bad release.

    Everything is real and on this machine only: a broker, the controller, and an agent and a runtime for each device.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a small network trains ten times slower on contended BLAS threads
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    session.optional("dsops_controller.demo.stage", "demo").check_parts()
    runner = session.optional("dsops_controller.demo.runner", "demo")
    runner.run(runner.Wishes(devices=devices, seed=seed, keep=keep, json=json))
