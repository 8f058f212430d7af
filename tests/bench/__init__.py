"""The benchmark: `python -m tests.bench`. No test of time: see `docs/performance.md`."""
