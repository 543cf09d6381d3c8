"""The global world model: a diffusion model of the next frame, accurate and forward only."""
