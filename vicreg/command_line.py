"""How every script ends when its user made a mistake: one clear line, exit code 1, no traceback."""

import os
import sys


def run(main, args):
    """Call ``main(args)``; turn errors that name a wrong input into a message on stderr and exit code 1.

    ``ValueError`` and ``OSError`` are what modules raise for bad input; set ``TRACEBACK=1`` to see where one came from.
    Of several processes only the first prints, the others end silently with the same code.
    """
    try:
        return main(args)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("TRACEBACK"):
            raise
        if os.environ.get("RANK", "0") == "0":
            name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def positive(args, *names):
    """Make sure that arguments are more than zero, where they are given.

    Args:
        args: of a parser. names: of numbers and of lists of numbers.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and not all(number > 0 for number in (value if isinstance(value, list) else [value])):
            raise ValueError(f"--{name.replace('_', '-')} {value}: more than zero is needed")
