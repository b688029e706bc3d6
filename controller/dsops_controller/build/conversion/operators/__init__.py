"""The ONNX operators that can be converted, one module for each family; :mod:`.table` lists them all.

Meanings are those of the ONNX operator specification (https://onnx.ai/onnx/operators/), default domain, sets 7 and up.
"""
