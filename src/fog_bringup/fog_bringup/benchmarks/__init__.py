"""What ``fog benchmark`` runs: every comparison within one run."""
