"""How good a world model is, in figures and pictures."""
