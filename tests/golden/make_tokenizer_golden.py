#!/usr/bin/env python3
"""Make tokenizer.txt: two small vocabularies and what other tokenizers make of hard texts with them.

    make_tokenizer_golden.py > tokenizer.txt

The vocabularies are trained here, on random text, so that they belong to nobody.  Byte-level BPE ids
are those of Hugging Face's `tokenizers`, SentencePiece ids those of `sentencepiece`.
Needs: pip install tokenizers sentencepiece protobuf gguf.

Lines of the output (texts in hexadecimal UTF-8):
    bpe | spm               a vocabulary begins
    t TYPE TEXT [SCORE]     its next token
    m LEFT RIGHT            its next merge
    x special|plain TEXT    the next text
    i PRE IDS...            its ids with one pre-tokenizer
"""
import io
import json
import os
import random
import sys

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
import hf_tokenizer  # noqa: E402
import random_texts  # noqa: E402

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im", "<s>", "</s>"]
WORDS = ("the of and to in that is was he for it with as his on be at by had not are but from or have an "
         "they which one you were her all she there would their we him been has when who will more no if out "
         "page table frame extent engine tenant memory prefix sealed shared water house light morning").split()


def hexed(text):
    return text.encode().hex() or "-"


def corpus():
    rng = random.Random(7)
    lines = [" ".join(rng.choice(WORDS) for _ in range(12)).capitalize() + rng.choice(".?!")
             for _ in range(400)]
    return lines + random_texts.texts(300, 11)


def cases():
    texts = [t for t in random_texts.texts(400, 5) if 0 < len(t.encode()) <= 70][:50]
    texts += ["", " ", "\n", "unbreakable", " unbreakable", "x unbreakable.", "\x00\x01\x7f",
              "e\u0301\u0323 \u1e0d\u0307", "12345678901234567", "'S 's I'LL we've", "a" * 50,
              "\ufffd", "  two  spaces  ", "\r\n\r\n x", "tail   "]
    return texts


def marked(texts):
    rng = random.Random(9)
    out = ["<|im_start|>user\nhi<|im_end|>\n", "<|im_end", "<|im<|im_end|>", "<|im_start|><|im_start|>",
           " <|endoftext|> "]
    return out + [t + rng.choice(CONTROL[:4]) + " " + t for t in texts[:8]]


def bpe():
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=CONTROL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator(corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    vocab["\u0120unbreakable"] = len(vocab)  # only found by tokenizers that look for whole words first
    print("bpe")
    for text, i in sorted(vocab.items(), key=lambda item: item[1]):
        print("t", 3 if text in CONTROL else 1, hexed(text))
    for left, right in merges:
        print("m", hexed(left), hexed(right))
    toks = {pre: hf_tokenizer.build(vocab, merges, pre, CONTROL)
            for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2")}
    for special, texts in ((False, cases()), (True, marked(cases()))):
        for text in texts:
            print("x", "special" if special else "plain", hexed(text))
            for pre, tok in toks.items():
                tok.encode_special_tokens = not special
                print("i", pre, *tok.encode(text, add_special_tokens=False).ids)


def spm():
    model = io.BytesIO()
    lines = [t.replace("\0", "").replace("\n", " ") for t in corpus()[:450]]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=640,
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, num_threads=1)
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    print("spm")
    for piece in proto.pieces:
        print("t", piece.type, hexed(piece.piece), piece.score)
    for text in cases():
        if "\0" not in text:
            print("x plain", hexed(text))
            print("i spm", *sp.encode(text))


print(f"# Made by make_tokenizer_golden.py with tokenizers {tokenizers.__version__}, "
      f"sentencepiece {sentencepiece.__version__}.")
bpe()
spm()
