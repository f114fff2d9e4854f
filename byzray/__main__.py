"""`python -m byzray` is the command, too."""

import sys


def run() -> None:
    """Call the command, without the working folder at the front of `sys.path`, where `-m` puts it."""
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    from byzray.commands import main

    main()


if __name__ == "__main__":
    run()
