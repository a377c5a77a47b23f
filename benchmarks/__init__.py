"""Side-by-side speed and memory: `python -m benchmarks`, from the project's root.

A subject is a module here with ROWS (what is compared) and CURVES (how cost grows); `measure.py` says what those are.
"""
