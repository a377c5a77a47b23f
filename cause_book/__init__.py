"""What the book needs beyond the method: theory, figures, diagrams, tables and the explorer; imports cause_lib."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"  # CSV files of longer runs, which pages and chapters read
