"""Train the embedded model: a tiny OPT that has read the Python documentation.

The corpus comes with Python (PSF licence), nothing is downloaded: ``pydoc_data.topics`` and the longer docstrings
of the standard library, but for modules that carry a notice of their own.  Paragraphs are joined to one line each,
so that the model learns to write words and not blank lines.

A million parameters are rarely sure of a token, and where two are nearly tied, the order of a sum decides.  So the
model first learns the corpus, then some passages by heart, until the right token leads by a margin; tests that
compare greedy tokens start from the prompts of these passages, ``prompts.txt``.

    OMP_NUM_THREADS=1 python examples/train_tiny_opt.py --out tiny-opt

One thread, one seed: the same Python and torch give the same weights.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import math
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

PAD_ID, END_ID = 1, 2
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # the ids of the real OPT
VOCAB_SIZE, CONTEXT = 2048, 512
PARAGRAPHS_PER_DOCUMENT = 4
SHORTEST_DOCSTRING = 200  # characters; shorter ones teach little but "Return a list."
NOT_READ = {
    *("test", "tests", "site-packages", "idlelib", "lib2to3", "ensurepip", "turtledemo", "encodings", "pydoc_data")
}
HELD_OUT_EVERY = 12
NUM_PASSAGES, PASSAGE_TOKENS, PROMPT_WORDS = 64, 112, 6
TO_ASCII = str.maketrans("\u201c\u201d\u2018\u2019\u2013\u2014\u00a0", "\"\"''-- ", "*")


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to learn; a step reads `rows` windows of CONTEXT tokens."""

    steps: int
    rows: int
    learning_rate: float
    passages: int = 0  # learnt by heart in each step
    margin: float = 2.0  # by which the right token's logit shall lead
    warmup: int = 50
    weight_decay: float = 0.1

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a twentieth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


READ = Recipe(steps=800, rows=8, learning_rate=4e-3)
RECITE = Recipe(steps=300, rows=4, learning_rate=2e-3, passages=24)


# ---- the corpus


def is_prose(paragraph: str) -> bool:
    """Sentences, and neither code nor grammar nor tables."""
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return (
        paragraph.isascii()
        and len(paragraph) > 40
        and paragraph[-1] in ".:;,)"
        and letters > 0.82 * len(paragraph)
        and not any(mark in paragraph for mark in (">>>", "::=", "==="))
    )


def paragraphs(text: str) -> Iterator[str]:
    """The prose, a paragraph a line; a word broken at its hyphen is joined."""
    for block in re.split(r"\n\s*\n", text.replace("\u2026", "...").translate(TO_ASCII)):
        line = re.sub(r"\s+", " ", re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", block)).strip()
        if line and is_prose(line):
            yield line


def topic_documents(seen: set[str]) -> Iterator[str]:
    """A few paragraphs of a topic make a document; what a second topic repeats is left out."""
    for name in sorted(topics):
        fresh = unseen(topics[name], seen)
        for at in range(0, len(fresh), PARAGRAPHS_PER_DOCUMENT):
            yield "\n".join(fresh[at : at + PARAGRAPHS_PER_DOCUMENT])


def docstring_documents(seen: set[str]) -> Iterator[str]:
    """A docstring of the standard library is a document."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if NOT_READ.isdisjoint(path.relative_to(library).parts):
            for docstring in docstrings(path.read_text(encoding="utf-8")):
                text = "\n".join(unseen(docstring, seen))
                if len(text) >= SHORTEST_DOCSTRING:
                    yield text


def docstrings(source: str) -> Iterator[str]:
    if re.search("copyright|licen[sc]e", source, re.IGNORECASE):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def unseen(text: str, seen: set[str]) -> list[str]:
    """The paragraphs not met before; they are met now."""
    fresh = [p for p in dict.fromkeys(paragraphs(text)) if p not in seen]
    seen.update(fresh)
    return fresh


# ---- tokenizer and data


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE like OPT's, which begins every text with </s>."""
    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", END_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )


def stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All documents in one row, each between two </s>."""
    ids = [token for text in texts for token in tokenizer(text).input_ids]
    return torch.tensor([*ids, END_ID])


def windows(ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    return torch.stack([ids[at : at + CONTEXT] for at in starts.tolist()])


# ---- training


@dataclass(frozen=True)
class Passage:
    """The beginning of a document, to be recited from its first words."""

    prompt: str
    prompt_tokens: int
    ids: torch.Tensor


def choose_passages(tokenizer: PreTrainedTokenizerFast, texts: list[str], ids: torch.Tensor) -> list[Passage]:
    """Spread over the documents, no two with the same first words; a short document runs into the next one."""
    begins = (ids == END_ID).nonzero()[: len(texts), 0].tolist()
    by_prompt: dict[str, int] = {}
    for text, begin in zip(texts, begins, strict=True):
        words = text.split("\n")[0].split(" ")
        if len(words) > PROMPT_WORDS and begin + PASSAGE_TOKENS <= len(ids):
            by_prompt.setdefault(" ".join(words[:PROMPT_WORDS]), begin)
    chosen = list(by_prompt.items())[:: len(by_prompt) // NUM_PASSAGES][:NUM_PASSAGES]
    return [Passage(p, len(tokenizer(p).input_ids), ids[begin : begin + PASSAGE_TOKENS]) for p, begin in chosen]


def new_model() -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        word_embed_proj_dim=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=512,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        init_std=0.05,  # a narrow model needs more than the default 0.02 to get going
        pad_token_id=PAD_ID,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )
    return OPTForCausalLM(config)


@torch.no_grad()
def held_out_loss(model: OPTForCausalLM, ids: torch.Tensor) -> float:
    """Nats a token, in windows of CONTEXT."""
    rows = windows(ids, torch.arange(0, len(ids) - CONTEXT, CONTEXT))
    return model(input_ids=rows, labels=rows).loss.item()


def shortfall(model: OPTForCausalLM, passages: list[Passage], margin: float) -> torch.Tensor:
    """What the right tokens' logits lack to lead by the margin, on average, after the prompts."""
    rows = torch.stack([p.ids for p in passages])
    logits, right = model(input_ids=rows).logits[:, :-1], rows[:, 1:, None]
    lead = logits.gather(2, right).squeeze(2) - logits.scatter(2, right, -math.inf).amax(2)
    after_prompt = torch.arange(1, rows.shape[1]) >= torch.tensor([[p.prompt_tokens] for p in passages])
    return torch.relu(margin - lead)[after_prompt].mean()


def train(
    model: OPTForCausalLM, ids: torch.Tensor, held_out: torch.Tensor, recipe: Recipe, passages: list[Passage]
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    begin = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        rows = windows(ids, torch.randint(len(ids) - CONTEXT, (recipe.rows,)))
        loss = model(input_ids=rows, labels=rows).loss
        lacking = torch.zeros(())
        if recipe.passages:
            drawn = torch.randperm(len(passages))[: recipe.passages].tolist()
            lacking = shortfall(model, [passages[n] for n in drawn], recipe.margin)
        optimizer.zero_grad()
        (loss + lacking).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(
                f"step {step + 1:4d}  loss {loss.item():.3f}  shortfall {lacking.item():.4f}  "
                f"held out {held_out_loss(model, held_out):.3f}  {time.perf_counter() - begin:.0f} s",
                flush=True,
            )


# ---- what came out


@torch.no_grad()
def smallest_gap(directory: Path, prompts: list[str], num_tokens: int) -> tuple[float, list[str]]:
    """Smallest distance between the two best logits in greedy decoding in float32, and the texts."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    gaps, texts = [], []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(num_tokens):
            best = model(ids).logits[0, -1].topk(2)
            gaps.append((best.values[0] - best.values[1]).item())
            ids = torch.cat([ids, best.indices[:1, None]], dim=1)
        texts.append(tokenizer.decode(ids[0, 1:]))
    return min(gaps), texts


def save(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], directory: Path) -> None:
    model.to(torch.float16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(directory)
    (directory / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tiny-opt"))
    out = parser.parse_args().out
    torch.set_num_threads(1)  # sums in another order give other weights
    torch.manual_seed(0)

    seen: set[str] = set()
    topic_texts, docstring_texts = list(topic_documents(seen)), list(docstring_documents(seen))
    corpus = topic_texts + docstring_texts
    digest = hashlib.sha256("\0".join(corpus).encode()).hexdigest()
    print(f"corpus {len(topic_texts)} + {len(docstring_texts)} documents, sha256 {digest}")

    held_out = corpus[::HELD_OUT_EVERY]
    learnt = [text for n, text in enumerate(corpus) if n % HELD_OUT_EVERY]
    tokenizer = train_tokenizer(learnt)
    ids, held_out_ids = stream(tokenizer, learnt), stream(tokenizer, held_out)
    passages = choose_passages(tokenizer, learnt[: len(topic_texts) * 9 // 10], ids)  # topics, not docstrings
    print(f"{len(ids)} tokens to learn, {len(held_out_ids)} held out, {len(passages)} passages to recite")

    model = new_model()
    print(f"model {model.num_parameters():,} parameters")
    for recipe in (READ, RECITE):
        train(model, ids, held_out_ids, recipe, passages)
    prompts = [passage.prompt for passage in passages]
    save(model, tokenizer, prompts, out)

    gap, texts = smallest_gap(out, prompts, num_tokens=64)
    print(f"smallest gap between the two best logits, {len(prompts)} prompts x 64 tokens: {gap:.4f}")
    print("", *texts[:8], sep="\n- ")


if __name__ == "__main__":
    main()
