#!/usr/bin/env python3
"""Compare our token ids with those of Hugging Face's `tokenizers` on thousands of random texts.

    compare_tokenizers.py [-n COUNT] [--seed SEED] TOKENIZE_BINARY FILE.gguf...

TOKENIZE_BINARY is build/tests/tokenize.  Exit 1 if any text differs.
Needs: pip install gguf tokenizers.
"""
import argparse
import subprocess
import sys

import hf_tokenizer
import random_texts


def compare(binary, path, texts, special):
    tok, control = hf_tokenizer.load(path)
    if not special:  # what a client writes must not become a control token
        tok.encode_special_tokens = True
    lines = "".join(text.encode().hex() + "\n" for text in texts)
    ours = subprocess.run([binary, path] + (["special"] if special else []), input=lines, text=True,
                          capture_output=True, check=True).stdout.split("\n")
    bad = 0
    for text, line in zip(texts, ours):
        want, got = tok.encode(text, add_special_tokens=False).ids, [int(i) for i in line.split()]
        if want != got:
            bad += 1
            if bad <= 5:
                print(f"{path}: {text!r}\n  tokenizers {want}\n  ours       {got}")
    print(f"{path}: {len(texts)} texts, special={special}: {bad} differ", flush=True)
    return bad


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=3000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("binary")
    args.add_argument("files", nargs="+")
    args = args.parse_args()
    texts = random_texts.texts(args.n, args.seed)
    bad = 0
    for path in args.files:
        _, control = hf_tokenizer.load(path)
        bad += compare(args.binary, path, texts, False)
        marked = [text + control[i % len(control)] + text[:3] for i, text in enumerate(texts[:500])]
        bad += compare(args.binary, path, marked, True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
