"""``python -m clearstone``."""

from clearstone.cli import main

if __name__ == "__main__":
    main()
