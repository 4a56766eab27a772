"""The same vocabulary in another tokenizer: build a `tokenizers` Tokenizer from a GGUF file.

Byte-level BPE only.  Needs: pip install gguf tokenizers.
"""
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def _split(digits):
    return [pre_tokenizers.Split(Regex(_LLAMA3.replace("DIGITS", digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def build(vocab, merges, pre, special):
    """vocab: text -> id; merges: pairs of texts; pre: as tokenizer.ggml.pre names it."""
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    parts = {"gpt-2": [byte_level],
             "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level],
             "llama-bpe": _split(r"\p{N}{1,3}"), "qwen2": _split(r"\p{N}")}[pre]
    tok.pre_tokenizer = pre_tokenizers.Sequence(parts)
    if pre == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return tok


def load(path):
    """Returns (tokenizer, texts of control tokens)."""
    fields = GGUFReader(path).fields
    get = lambda key: fields[key].contents() if key in fields else None
    assert get("tokenizer.ggml.model") == "gpt2", "only byte-level BPE"
    tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
    merges = [tuple(line.split(" ", 1)) for line in get("tokenizer.ggml.merges")]
    special = [text for text, kind in zip(tokens, types) if kind == 3]
    vocab = {text: i for i, text in enumerate(tokens)}
    return build(vocab, merges, get("tokenizer.ggml.pre"), special), special
