"""The reading half: a recorded call is answered instead of made."""
