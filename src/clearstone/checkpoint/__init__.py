"""An agent's state at one position of a trace, as a file."""
