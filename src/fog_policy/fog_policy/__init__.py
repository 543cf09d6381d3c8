"""Policies, how they are trained inside world models, and the node that runs one."""
