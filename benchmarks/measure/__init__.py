"""What the benchmarks share: their report, the model under test, and the peers that they are measured against."""
