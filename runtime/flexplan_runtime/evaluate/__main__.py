"""The harness's command line, with the model ``flexplan``."""

import sys
from argparse import Namespace

from lm_eval._cli import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import setup_logging

from flexplan.errors import FlexplanError
from flexplan_runtime.evaluate.model import ANY_DEVICE


def main() -> None:
    """As the harness has it; what flexplan refuses is said as its own commands say it."""
    setup_logging()
    harness = HarnessCLI()
    arguments = harness.parse_args()
    if getattr(arguments, "command", None) == "run":
        _ask_for_any_device(arguments)
    try:
        harness.execute(arguments)
    except FlexplanError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _ask_for_any_device(arguments: Namespace) -> None:
    """Where no device is named: the harness would ask for the first CUDA device, whether there is one or not."""
    file = EvaluatorConfig.load_yaml_config(arguments.config) if arguments.config else {}
    if (arguments.model or file.get("model")) == "flexplan" and not (arguments.device or file.get("device")):
        arguments.device = ANY_DEVICE


if __name__ == "__main__":
    main()
