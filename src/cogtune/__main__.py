"""`cogtune`: the command line. Each subcommand has its own file in `commands/`."""

import sys
from collections.abc import Sequence

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.errors import UserError
from cogtune.runtime.failures import explained
from cogtune.runtime.log import log_to_terminal
from cogtune.runtime.stopping import RESUME, Interrupted, Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 success, 2 usage or config error, 130 Ctrl-C, 143 SIGTERM, 1 any other error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        _say_stopped(words)
        return 130
    except Stopped as stopped:
        if not stopped.explained:
            _say_stopped(words)
        raise


def _run(words: Sequence[str]) -> int:
    # Imported only here, which takes up to a second: `main` answers a Ctrl-C during that time.
    from cogtune.commands.parser import build_parser
    from cogtune.commands.suggestions import unknown_words

    log_to_terminal()
    cut = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(words[:cut])
    if unknown:
        parser.error(unknown_words(parser, unknown, words[:cut]))
    try:
        with explained():
            return arguments.run_command(arguments, words[cut + 1 :])
    except (ConfigError, ConfigErrors, UserError) as error:
        if arguments.debug:
            raise
        print(f"cogtune: {error}", file=sys.stderr)
        return error.exit_code


def _say_stopped(words: Sequence[str]) -> None:
    """The last line after Ctrl-C or SIGTERM. Of a job of Snakemake, its main process says it."""
    if "--plain" not in words:
        print(f"cogtune: stopped; finished work is kept. {RESUME}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
