"""One training loop for all models, and the checkpoints it writes."""
