"""The older ``clearstone-sdk`` distribution installs a package of the same name; the two shadow each other's files."""

from pathlib import Path


def refuse_clearstone_sdk() -> None:
    """Say that the two cannot share an environment.

    Looks for files only that distribution has, which costs one ``stat``; asking the installed metadata costs
    milliseconds at each import.

    Raises:
        ImportError: files of ``clearstone-sdk`` lie in this package.
    """
    if Path(__file__).with_name("observability").is_dir():
        raise ImportError(
            "clearstone and clearstone-sdk both install a package named 'clearstone' and cannot share an environment: "
            "run 'pip uninstall -y clearstone-sdk clearstone' and then 'pip install clearstone'."
        )
