"""How every edm3d command starts: parse flags, run, and turn bad input into one line and exit 2."""

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from edm3d.errors import InputError

EXIT_BAD_INPUT = 2


@contextlib.contextmanager
def bad_input_exits_2(*more: type[Exception]) -> Iterator[None]:
    """Prints an `InputError` (or one of `more`) as `error: ...` without a traceback and exits 2."""
    try:
        yield
    except (InputError, *more) as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if not isinstance(error, InputError):
            text = " ".join(text.split())
        if isinstance(error, OSError):  # a full disk, a folder that may not be written
            text = f"{text}; look at the path, its permissions and the space left"
        for line in filter(None, (line.strip() for line in text.splitlines())):
            print(f"error: {line}", file=sys.stderr)
        _let_go_of_memory(error)
        sys.exit(EXIT_BAD_INPUT)


@contextlib.contextmanager
def data_section_errors() -> Iterator[None]:
    """Turns what a wrong section `data` of --config raises into one `InputError`."""
    try:
        yield
    except (KeyError, AttributeError, TypeError, ValueError, IndexError) as error:
        fault = " ".join(str(error).split())
        raise InputError(f"section data of --config is {fault}; see configs/ards.py") from error


def _let_go_of_memory(error: BaseException) -> None:
    """Frees what frames hold: memory shared with worker processes is complained of else."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()


def _parse(argv: list[str]) -> list[str]:
    # A locked config answers a mistyped key with AttributeError or KeyError and a suggestion.
    with bad_input_exits_2(flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError):
        return flags.FLAGS(argv)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs `main(argv)` under absl; `InputError` ends it with one clear line and exit code 2."""

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # libraries tell much; commands print their own
        with bad_input_exits_2(OSError):
            if len(argv) > 1:
                raise InputError(f"argument {argv[1]!r} is not a flag; write --name=value")
            main(argv)

    app.run(guarded, flags_parser=_parse)
