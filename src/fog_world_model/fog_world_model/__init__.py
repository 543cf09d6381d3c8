"""World models of a robot, and the data that they are fitted to."""
