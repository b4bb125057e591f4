"""From steps to the calls of a forward, carried out by compiled code."""
