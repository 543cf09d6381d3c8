"""A learned world that a person drives in a browser, or a program over HTTP."""
