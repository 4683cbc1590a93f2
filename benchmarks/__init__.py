"""Ours beside PyTorch, measured: `python -m benchmarks`. Start with `contest.py`."""
