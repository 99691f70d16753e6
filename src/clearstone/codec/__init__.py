"""Values to bytes and back, and a look at the bytes without loading them."""
