"""From robot topics to bags, and from bags to episodes."""
