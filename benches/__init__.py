"""Benchmarks: manyhands alone in `ours`, and beside other engines in `peers`."""
