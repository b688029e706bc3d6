"""Takes out of a frame what must not leave the device. Whatever goes wrong, the frame is not kept."""

import math
import os
import subprocess
from collections.abc import Sequence

import numpy as np

from dsops.errors import NotRedacted
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.sample_settings import Region


def blank(frame: Array, regions: Sequence[Region], *, channels_first: bool = False) -> Array:
    """Return a copy of a picture [1, H, W, C] whose regions are zero; a pixel that a region touches is of it.

    Args:
        frame: The picture.
        regions: What is blanked.
        channels_first: Whether it is [1, C, H, W].

    Raises:
        NotRedacted: It is no picture.
    """
    if frame.ndim != 4:
        raise NotRedacted("regions can only be taken out of pictures", why=f"the input has {frame.ndim} axes, not 4")
    copy = np.array(frame)
    view = copy.transpose(0, 2, 3, 1) if channels_first else copy
    _, height, width, _ = view.shape
    for left, top, right, bottom in regions:
        rows = slice(math.floor(top * height), math.ceil(bottom * height))
        columns = slice(math.floor(left * width), math.ceil(right * width))
        view[:, rows, columns, :] = 0
    return copy


def run_program(command: Sequence[str], frame: Array, datatype: str, timeout_s: float) -> Array:
    """Return what a program makes of a frame: it reads the values from its input and writes as many to its output.

    Args:
        command: Program and arguments. Its environment has ``DSOPS_DATATYPE`` and ``DSOPS_SHAPE``, as in ``1x96x96x3``.
        frame: The frame; its values go little-endian, the last axis first.
        datatype: Open Inference Protocol name of their type.
        timeout_s: How long it may take.

    Raises:
        NotRedacted: It could not be run, failed, took too long, or wrote another number of bytes.
    """
    little = frame.dtype.newbyteorder("<")
    shape = "x".join(map(str, frame.shape))
    environment = os.environ | {"DSOPS_DATATYPE": datatype, "DSOPS_SHAPE": shape}
    name = command[0]
    try:
        done = subprocess.run(
            command,
            input=np.ascontiguousarray(frame, little).tobytes(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotRedacted(f"{name} took longer than {timeout_s:g} s for a frame") from error
    except (OSError, ValueError) as error:
        raise NotRedacted(f"{name} cannot be run", why=str(error)) from error
    if done.returncode:
        raise NotRedacted(f"{name} failed on a frame", why=f"its exit code is {done.returncode}")
    if len(done.stdout) != frame.nbytes:
        raise NotRedacted(f"{name} wrote {len(done.stdout)} bytes for a frame of {frame.nbytes}")
    return np.frombuffer(done.stdout, little).reshape(frame.shape)
