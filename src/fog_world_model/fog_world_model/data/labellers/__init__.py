"""Labellers: rewards and ends computed from recorded images."""
