"""A run and what it leaves: artefacts, training, judging. Import the modules; this one imports nothing."""
