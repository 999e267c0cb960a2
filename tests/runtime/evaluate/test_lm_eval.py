"""The model ``flexplan`` of the LM Evaluation Harness gives the figures of the harness's own model for transformers."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import torch
from documents import shown_with
from flexplan_runtime.evaluate import FlexplanLM
from flexplan_runtime.evaluate import __main__ as command_line
from flexplan_runtime.evaluate.opening import Opened
from flexplan_runtime.generate import OffloadedLM
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager

from flexplan.errors import OutputHeld, PromptError, UsageError

QUESTIONS = [  # words of Python's documentation, which the embedded model was trained on; SmolLM2 knows all of it
    ("The with statement is used to", ["wrap the execution of a block", "tell the time of day", "open"], 0),
    ("An exception is raised when the", ["sun", "moon", "value"], 2),
    ("The capital of France is", ["London", "Paris", "Rome", "Berlin"], 1),
    ("Class definitions create", ["new types", "rain"], 0),
    ("", ["The function returns a list", "list a returns function The"], 0),
]
TEXTS = [
    "The return statement may only occur in a function definition.",
    "Water boils at one hundred degrees. The import statement binds names, and each of them is a module. " * 4,
    "x",
]
CONTEXTS = ["The with statement is", "An exception is raised when the", "Once upon a time", "The with statement is"]
TASKS = ("choices", "texts", "answers")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """Tasks of each of the harness's questions over local data."""
    place = tmp_path_factory.mktemp("tasks")
    common = "dataset_path: json\ntest_split: test\nmetadata: {version: 1}\n"
    rows = {
        "choices": [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS],
        "texts": [{"text": text} for text in TEXTS],
        "answers": [{"text": text} for text in CONTEXTS],
    }
    bodies = {
        "choices": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
        "texts": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
        "answers": "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: ' a'\n"
        "generation_kwargs: {until: ['.', ' the'], max_gen_toks: 7}\nmetric_list: [{metric: exact_match}]\n",
    }
    for name in TASKS:
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        data = f"dataset_kwargs: {{data_files: {{test: {place / name}.jsonl}}, cache_dir: {place}}}\n"
        (place / f"{name}.yaml").write_text(f"task: {name}\n{common}{data}{bodies[name]}")
    return TaskManager(include_path=str(place), include_defaults=False)


def evaluated(model: Any, tasks: TaskManager, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures by task, and what came of each request."""
    found = lm_eval.simple_evaluate(
        model, model_args=arguments or None, tasks=list(TASKS), task_manager=tasks, bootstrap_iters=0, log_samples=True
    )
    samples = {name: [sample["resps"] for sample in found["samples"][name]] for name in TASKS}
    return {name: found["results"][name] for name in TASKS}, samples


@pytest.mark.parametrize("words", shown_with("python -m flexplan_runtime.evaluate"))
def test_a_command_of_the_documents_is_one_of_the_harness(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tasks are the harness's own, which are downloaded; its model and what that is given are ours."""
    from lm_eval._cli import HarnessCLI

    arguments = shlex.split(words)[3:]
    monkeypatch.setattr("sys.argv", ["lm-eval", *arguments])
    given = HarnessCLI().parse_args()
    assert given.model == "flexplan"
    taken = [inspect.signature(one.__init__).parameters for one in (FlexplanLM, Opened)]
    assert given.model_args.keys() <= {**taken[0], **taken[1]}.keys()
    monkeypatch.setattr("sys.argv", ["lm-eval", *arguments, "--no-such-flag"])
    with pytest.raises(SystemExit):
        HarnessCLI().parse_args()


@pytest.mark.parametrize(
    ("flags", "file", "given"),
    [
        ([], "", "auto"),
        (["--device", "cuda:0"], "", "cuda:0"),
        ([], "device: cpu", "cpu"),
        (["--model", "hf"], "", "cuda:0"),
    ],
)
def test_a_device_that_nobody_named_is_not_the_harness_s(
    flags: list[str], file: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the harness's command line would make the model with."""
    (tmp_path / "asked.yaml").write_text(f"tasks: [texts]\n{file}\n")
    words = ["run", "--config", str(tmp_path / "asked.yaml"), "--model", "flexplan", *flags]
    made = list[Any]()
    monkeypatch.setattr("sys.argv", ["lm-eval", *words])
    keep = staticmethod(lambda arguments: made.append(EvaluatorConfig.from_cli(arguments)))
    monkeypatch.setattr("lm_eval._cli.run.Run._execute", keep)
    command_line.main()
    assert [one.device for one in made] == [given]


@pytest.mark.parametrize("words", ["", ",device=cpu,batch_size=auto"])
def test_arguments_may_name_what_the_harness_has_flags_for(words: str, tiny_opt: Path, tmp_path: Path) -> None:
    text = f"pretrained={tiny_opt},hardware=cpu-host,gpu_mem=8M,cpu_mem=8M,offload_dir={tmp_path}{words}"
    beside = {"batch_size": 1, "max_batch_size": None, "device": "auto"}
    model = FlexplanLM.create_from_arg_string(text, beside)
    with_cuda = torch.cuda.is_available() and not words
    assert model.lm.env.device == torch.device("cuda:0" if with_cuda else "cpu")
    model.close()
    if words:
        with pytest.raises(UsageError, match="device=cpu of the model's arguments beside the harness's device cuda:0"):
            FlexplanLM.create_from_arg_string(text, beside | {"device": "cuda:0"})
        with pytest.raises(UsageError, match="batch_size 8"):
            FlexplanLM.create_from_arg_string(text, beside | {"batch_size": 8})


def assert_alike(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> None:
    for name in TASKS:
        for metric, figure in theirs[0][name].items():
            wanted = pytest.approx(figure, rel=1e-4) if isinstance(figure, float) else figure
            assert ours[0][name][metric] == wanted, (name, metric)
    assert ours[1]["answers"] == theirs[1]["answers"]
    for name in TASKS[:2]:
        assert flat(ours[1][name]) == pytest.approx(flat(theirs[1][name]), rel=1e-4, abs=1e-4), name


def flat(found: Any) -> list[float]:
    return [leaf for part in found for leaf in flat(part)] if isinstance(found, list | tuple) else [float(found)]


@pytest.fixture(scope="module")
def reference(tiny_opt: Path, tasks: TaskManager) -> tuple[Any, Any]:
    return evaluated("hf", tasks, pretrained=str(tiny_opt), dtype="float32", device="cpu", max_length=48)


def ours(model: Path, place: Path, **arguments: Any) -> dict[str, Any]:
    """On three tiers, none of which holds the embedded model."""
    budgets = {"gpu_mem": "4M", "cpu_mem": "8M", "disk_mem": "64M", "hardware": "cpu-host", "gen_len": 8}
    return (
        {"pretrained": str(model), "dtype": "float32", "offload_dir": str(place), "device": "cpu"} | budgets | arguments
    )


def test_figures_are_those_of_transformers(
    reference: tuple[Any, Any], tiny_opt: Path, tasks: TaskManager, tmp_path: Path
) -> None:
    """All three of the harness's questions; longer texts than the model is let read go in windows."""
    model = FlexplanLM.create_from_arg_obj(
        ours(tiny_opt, tmp_path, prompt_len=48, max_length=48), {"batch_size": None, "max_batch_size": None}
    )
    try:
        assert_alike(evaluated(model, tasks), reference)
    finally:
        model.close()


def test_an_evaluation_that_was_killed_goes_on_where_it_ended(
    reference: tuple[Any, Any], tiny_opt: Path, tasks: TaskManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is not asked again; a line that was being written is."""
    asked = list[int]()
    plain = OffloadedLM.stream_scores

    def dying(lm: OffloadedLM, sequences: Any, *rest: Any) -> Iterator[Any]:
        asked.append(len(sequences))
        for n, score in enumerate(plain(lm, sequences, *rest)):
            if len(asked) == 1 and n == 5:
                raise KeyboardInterrupt
            yield score

    monkeypatch.setattr(OffloadedLM, "stream_scores", dying)
    journal = tmp_path / "answers.log"
    arguments = ours(tiny_opt, tmp_path, prompt_len=48, max_length=48, journal=str(journal))
    model = FlexplanLM(**arguments)
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, tasks)
    with pytest.raises(OutputHeld, match="written by another process"):
        FlexplanLM(**arguments)
    model.close()
    journal.write_bytes(journal.read_bytes()[:-3])
    for _ in range(2):
        again = FlexplanLM(**arguments)
        assert_alike(evaluated(again, tasks), reference)
        again.close()
    assert asked[1] == asked[0] - 4 and asked[3:] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"batch_size": 8}, "FP194"),
        ({"max_batch_size": 8}, "FP194"),
        ({"policy": "there.json", "prompt_len": 3}, "FP191"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(
    arguments: dict[str, Any], code: str, tiny_opt: Path, tmp_path: Path
) -> None:
    asked = ours(tiny_opt, tmp_path) | arguments
    if "policy" in arguments:
        asked = {name: value for name, value in asked.items() if name not in ("hardware", "gen_len")}
    with pytest.raises(UsageError) as raised:
        FlexplanLM(**asked)
    assert raised.value.code == code


def test_what_cannot_be_honoured_is_refused_by_name(tiny_opt: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes\n")
    with pytest.raises(UsageError, match="no log of answers"):
        FlexplanLM(**ours(tiny_opt, tmp_path, journal=str(tmp_path / "notes.txt")))
    model = FlexplanLM(**ours(tiny_opt, tmp_path, prompt_len=48))
    instance = lm_eval.api.instance.Instance
    with pytest.raises(UsageError, match="repetition_penalty 2"):
        model.generate_until([instance("generate_until", {}, ("The", {"repetition_penalty": 2.0}), 0)])
    with pytest.raises(UsageError, match="leaves no room"):
        model.generate_until([instance("generate_until", {}, ("The", {"max_gen_toks": 512}), 0)])
    with pytest.raises(PromptError, match="0 tokens"):
        model.loglikelihood([instance("loglikelihood", {}, ("The", ""), 0)])
    drawn = [
        instance("generate_until", {}, ("The", {"do_sample": True, "temperature": 3.0, "max_tokens": 8}), n)
        for n in range(4)
    ]
    assert len(set(model.generate_until(drawn))) == 4
    model.close()


@pytest.mark.real_weights
@pytest.mark.timeout(600)
def test_figures_on_smollm2_are_those_of_transformers(smollm2: Path, tasks: TaskManager, tmp_path: Path) -> None:
    wanted = evaluated("hf", tasks, pretrained=str(smollm2), dtype="float32", device="cpu")
    budgets = {"gpu_mem": "600M", "cpu_mem": "400M", "disk_mem": "1G", "prompt_len": 128}
    model = FlexplanLM(**ours(smollm2, tmp_path, **budgets))
    assert_alike(evaluated(model, tasks), wanted)
    assert wanted[0]["choices"]["acc,none"] >= 0.6
    model.close()
