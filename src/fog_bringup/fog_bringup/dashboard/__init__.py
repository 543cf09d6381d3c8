"""The operator's page: what a robot driven by a policy sees and does, and a way to stop it."""
