"""Chat templates: messages made into text by the program that a model's maker wrote, in a process of its own.

A template is code of strangers: it runs in jinja's sandbox, and that in a process whose memory and time are bounded.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexplan.errors import PromptError
from flexplan.files import parse_json
from flexplan.limits import read_limited
from flexplan.problem.prompts.request_line import Chat, Prompt
from flexplan.problem.prompts.tokenizer_file import LOAD_PATIENCE_S, PATIENCE_S

MOST_TEMPLATE_BYTES = 1 << 20
MOST_ENDLESS = 4  # texts on which it does not end; then it is the template's fault, not theirs
MOST_CONFIG_BYTES = 64 << 20  # a tokenizer_config.json may list all added tokens
_RENDERER = Path(__file__).with_name("chat_renderer.py")
_TOO_MUCH = "it asks for too much memory or time"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def template_of(directory: Path) -> tuple[str, dict[str, str]]:
    """The template of a model directory, and the special tokens that it may name; ValueError where there is none.

    A file ``chat_template.jinja`` counts more than the key of ``tokenizer_config.json``, as in transformers.
    """
    config = _object(directory / "tokenizer_config.json")
    template: Any = config.get("chat_template")
    if isinstance(template, list):  # of several, by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    with suppress(FileNotFoundError):
        template = read_limited(directory / "chat_template.jinja", MOST_TEMPLATE_BYTES)
    if not isinstance(template, str) or not template:
        raise ValueError("there is none (chat_template.jinja, or chat_template in tokenizer_config.json)")
    given = _object(directory / "special_tokens_map.json") | config
    tokens = {name: _text_of(given[name]) for name in _SPECIAL if name in given}
    return template, {name: text for name, text in tokens.items() if text is not None}


class Renderer:
    """Renders messages by the template of a model directory, until it is closed."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._unusable = ""  # why no messages can be rendered
        self._endless = list[Prompt]()

    def texts(self, prompts: Sequence[Prompt]) -> list[str | PromptError]:
        """What is to be read of each: text as it is; messages as the template has it, or why there is nothing to read.

        That is that it cannot be used, refuses them, or does not end.  Raises PromptError where it does not end time
        and again.
        """
        return [self._rendered(p, p.content) if isinstance(p.content, Chat) else str(p.content) for p in prompts]

    def _rendered(self, prompt: Prompt, chat: Chat) -> str | PromptError:
        try:
            if self._process is None and not self._unusable:
                self._begin()
        except (OSError, ValueError) as error:
            self._unusable = str(error)
        if self._unusable:
            return self._refused(f"line {prompt.line}", self._unusable)
        answer = self._ask([dict(message) for message in chat.messages], PATIENCE_S)
        if answer is None:
            self.close()
            self._endless.append(prompt)
            if len(self._endless) == MOST_ENDLESS:
                where = ", ".join(str(one.line) for one in self._endless)
                raise self._refused(f"lines {where}", _TOO_MUCH)
            answer = {"error": _TOO_MUCH}
        if "text" in answer:
            return str(answer["text"])
        message = f"line {prompt.line}: the chat template refuses the messages: {answer['error']}"
        return PromptError("FP324", message, fix=f"correct line {prompt.line}, or leave it out")

    def _refused(self, where: str, why: str) -> PromptError:
        self.close()
        message = f"{where}: the chat template of {self.directory} cannot be used: {why}"
        return PromptError("FP323", message, fix="give prompt or prompt_ids, or another template")

    def _begin(self) -> None:
        if self.directory is None:
            raise ValueError("there is no model directory")
        template, special = template_of(self.directory)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_RENDERER)], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        )
        answer = self._ask({"template": template, "special": special}, LOAD_PATIENCE_S)  # its libraries, too
        if answer is None or "error" in answer:
            raise ValueError((answer or {}).get("error", _TOO_MUCH))

    def _ask(self, found: Any, patience_s: float) -> dict[str, Any] | None:
        """Its answer; None where it has ended instead, or takes too long by the clock, too."""
        process = self._process
        assert process and process.stdin and process.stdout
        answers = select.poll()
        answers.register(process.stdout, select.POLLIN)
        try:
            process.stdin.write(json.dumps(found).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline() if answers.poll(patience_s * 1000) else b""
        except OSError:
            return None
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    def close(self) -> None:
        """End its process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _object(path: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        found = parse_json(read_limited(path, MOST_CONFIG_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def _text_of(token: Any) -> str | None:
    """A special token as it is written: its text, or an object that has it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
