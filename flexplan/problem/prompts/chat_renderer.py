"""The process that renders chat templates: a template, then messages, each a line of JSON; a line of answer each.

Run as a program, and imports nothing of flexplan.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any, NoReturn

MOST_BYTES = 1 << 30  # of memory
MOST_CPU_S = 10  # for a text: templates take a millisecond
MOST_CHARACTERS = 64 << 20  # of a text


def main() -> None:
    """Answer until nobody asks."""
    _limit(resource.RLIMIT_AS, MOST_BYTES)
    template: Any = None
    special: dict[str, str] = {}
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + MOST_CPU_S)  # beyond it the process ends
        try:
            found = json.loads(line)
            if template is None:
                template, special = compiled(found["template"]), found["special"]
                _say({"ready": True})
                continue
            text = template.render(messages=found, add_generation_prompt=True, tools=None, documents=None, **special)
            _say({"text": text} if len(text) <= MOST_CHARACTERS else {"error": "it makes a text that is too long"})
        except MemoryError:
            _say({"error": "it asks for too much memory"})
        except Exception as error:  # whatever a stranger's program does
            _say({"error": f"{type(error).__name__}: {error}"[:500]})


def _limit(what: int, most: int) -> None:
    """Less where this process was begun with less."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def compiled(template: str) -> Any:
    """A template, in the words that transformers gives them all."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Where an answer stands; for training, and nothing here."""

        tags = {"generation"}  # noqa: RUF012 - as jinja has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made.from_string(template)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
