"""The harness's command line, with the model ``flexplan``."""

import sys

from lm_eval.__main__ import cli_evaluate

import flexplan_runtime.evaluate  # noqa: F401  # registers it
from flexplan.errors import FlexplanError


def main() -> None:
    """As the harness has it; what flexplan refuses is said as its own commands say it."""
    try:
        cli_evaluate()
    except FlexplanError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
