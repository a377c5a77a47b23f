"""What the book needs beyond the method: theory, figures, diagrams, tables and the explorer; imports cause_lib."""
