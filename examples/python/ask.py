"""Asks the agent on this device what it sees: ask.py SOCKET MODEL FRAMES.npy, frames as one array [n, ...]."""

import sys

import numpy as np

from dsops.client import Inference

if len(sys.argv) != 4:
    sys.exit("usage: ask.py SOCKET MODEL FRAMES.npy")
socket, model, file = sys.argv[1:]
with Inference(socket, model, shared_memory=True) as asked:
    answer = asked.infer(np.load(file))
    for name, values in answer.items():
        print(name, values.tolist(), f"release {answer.release}")
