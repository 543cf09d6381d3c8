"""What the pages of this package share: who is let in, how they are served, how they look."""
