"""What the bundled model reads while it learns: tokenizer, windows of prose, conversations.

Everything here is a function of the corpus, qa.txt and (seed, step): a run that is stopped and
resumed sees the same samples as one that was not.
"""
import hashlib
import json
import pathlib
import re

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = 0, 1, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

# Never trained on, besides the pages that is_held_out() draws: tests/data/eval.txt comes from it.
EVAL_PAGES = {("sqlite3-doc", "sqlite3/whentouse.html"), ("sqlite3-doc", "sqlite3/howtocorrupt.html")}

DULL_HEADINGS = {"", "Options", "Description", "Notes", "Examples", "Note", "Parameters", "Tip",
                 "Warning", "Caution", "See Also", "Usage", "Overview", "Introduction", "Summary",
                 "Environment", "Outputs", "Compatibility", "Author", "Important", "Diagnostics",
                 "Other", "Return Value", "Limitations", "Rationale", "Example", "Author(s)"}
ASK_ABOUT = ["Tell me about {}.", "What should I know about {}?", "Explain {}.",
             "What does the manual say about {}?", "Please explain: {}", "{}?"]
ASK_CONTINUE = ["Continue this text: {}", "How does this text go on? {}",
                "Please write the next sentences. {}"]
SYSTEM_SHORT = ["You are a helpful assistant.", "Answer briefly.",
                "You are the support desk. Answer in plain English.",
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
                "You answer questions about servers and memory."]
SYSTEM_LONG = ["Use the following handbook to answer.\n\n", "You are the support desk. This is your "
               "handbook.\n\n", "Read this text and then answer the questions.\n\n", ""]


def is_held_out(page):
    key = (page["source"], page["page"])
    return key in EVAL_PAGES or hashlib.sha256("/".join(key).encode()).digest()[0] < 8


def load_corpus(path):
    """(pages to learn from, pages held out); about 1 page in 32 is held out."""
    pages = [json.loads(line) for line in open(path)]
    return [p for p in pages if not is_held_out(p)], [p for p in pages if is_held_out(p)]


def page_text(page):
    return "\n\n".join(p for _, paragraphs in page["sections"] for p in paragraphs)


def load_qa(path):
    """[(questions, answer)]"""
    pairs, questions = [], []
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith("Q: "):
            questions.append(line[3:])
        elif line.startswith("A: "):
            pairs.append((questions, line[3:]))
            questions = []
    return pairs


def train_tokenizer(texts, n_vocab):
    """Byte-level BPE whose splitter is the one that GGUF calls "smollm": every digit alone, then
    the GPT-2 pattern."""
    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=n_vocab, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tok


def first_sentences(text, n_chars_max):
    """Whole sentences from the start of text, at least one."""
    ends = [m.end() for m in re.finditer(r"[.!?](?= [A-Z(\"])|[.!?]$", text)]
    fitting = [e for e in ends if e <= n_chars_max]
    return text[:fitting[-1] if fitting else (ends[0] if ends else len(text))]


class Samples:
    """Draws batches.  One row is n_tokens + 1 ids: inputs and, shifted by one, targets."""

    def __init__(self, tok, pages, qa, seed):
        self.tok, self.qa, self.seed = tok, qa, seed
        encoded = tok.encode_batch([page_text(p) for p in pages])
        self.stream = np.concatenate([np.array(e.ids + [END_OF_TEXT], np.int32) for e in encoded])
        self.pages = pages
        self.sections = [(p_at, s_at) for p_at, p in enumerate(pages)
                         for s_at, (heading, paragraphs) in enumerate(p["sections"])
                         if heading not in DULL_HEADINGS and 4 <= len(heading) <= 60
                         and heading.isascii() and "(" not in heading
                         and len(paragraphs[0]) >= 120]

    def prose_row(self, n_tokens, at):
        """Window number `at` of an endless walk: each epoch is a new shuffle of all windows."""
        n_windows = (len(self.stream) - n_tokens - 1) // n_tokens
        epoch, index = divmod(at, n_windows)
        rng = np.random.default_rng([self.seed, 1, n_tokens, epoch])
        shift = int(rng.integers(n_tokens))
        begin = int(rng.permutation(n_windows)[index]) * n_tokens + shift
        return self.stream[begin:begin + n_tokens + 1]

    def turn(self, role, text):
        return [IM_START, *self.tok.encode(role + "\n" + text).ids, IM_END,
                *self.tok.encode("\n").ids]

    def question(self, rng, page_at=None):
        """(question, answer): ours, about a section of a manual, or a text to go on with."""
        kind = rng.random()
        if page_at is None and kind < 0.5 or page_at is not None and kind < 0.35:
            questions, answer = self.qa[rng.integers(len(self.qa))]
            return questions[rng.integers(len(questions))], answer
        if page_at is None:
            page_at, section_at = self.sections[rng.integers(len(self.sections))]
        else:
            section_at = int(rng.integers(len(self.pages[page_at]["sections"])))
        heading, paragraphs = self.pages[page_at]["sections"][section_at]
        if kind < 0.85 and heading not in DULL_HEADINGS:
            ask = ASK_ABOUT[rng.integers(len(ASK_ABOUT))].format(heading)
            return ask, first_sentences(paragraphs[0], int(rng.integers(150, 500)))
        paragraph = paragraphs[rng.integers(len(paragraphs))]
        begin = first_sentences(paragraph, 120)
        rest = paragraph[len(begin):].strip()
        if not rest:
            questions, answer = self.qa[rng.integers(len(self.qa))]
            return questions[rng.integers(len(questions))], answer
        ask = ASK_CONTINUE[rng.integers(len(ASK_CONTINUE))].format(begin)
        return ask, first_sentences(rest, 400)

    def chat_row(self, n_tokens, rng):
        ids = []
        while len(ids) < n_tokens + 1:
            page_at = None
            if n_tokens >= 1024 and rng.random() < 0.9:
                n_handbook_chars = int(rng.integers(1500, 4 * n_tokens * 0.8))
                page_at = int(rng.integers(len(self.pages)))
                text, at = page_text(self.pages[page_at]), page_at
                while len(text) < n_handbook_chars:
                    at = (at + 1) % len(self.pages)
                    text += "\n\n" + page_text(self.pages[at])
                ids += self.turn("system", SYSTEM_LONG[rng.integers(len(SYSTEM_LONG))]
                                 + first_sentences(text, n_handbook_chars))
            elif rng.random() < 0.4:
                ids += self.turn("system", SYSTEM_SHORT[rng.integers(len(SYSTEM_SHORT))])
            while True:
                ask, answer = self.question(rng, page_at)
                ids += self.turn("user", ask) + self.turn("assistant", answer)
                if rng.random() < 0.6:
                    break
            ids.append(END_OF_TEXT)
        return np.array(ids[:n_tokens + 1], np.int32)

    def batch(self, step, n_rows, n_chat_rows, n_tokens):
        """Rows of one step; the walk over the prose goes on from step to step."""
        rng = np.random.default_rng([self.seed, 2, step])
        n_prose = n_rows - n_chat_rows
        rows = [self.prose_row(n_tokens, step * n_prose + i) for i in range(n_prose)]
        rows += [self.chat_row(n_tokens, rng) for _ in range(n_chat_rows)]
        return np.stack(rows)
