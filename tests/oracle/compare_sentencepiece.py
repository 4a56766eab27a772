#!/usr/bin/env python3
"""Compare our token ids with SentencePiece's own on random texts, for a GGUF file of that family.

    compare_sentencepiece.py [-n COUNT] [--seed SEED] TOKENIZE_BINARY FILE.gguf...

The file's pieces, scores and types become a SentencePiece model without normalization.  Exit 1 if
any text differs.  Needs: pip install gguf sentencepiece protobuf.
"""
import argparse
import subprocess
import sys

import sentencepiece
from gguf import GGUFReader
from sentencepiece import sentencepiece_model_pb2 as pb

import random_texts


def load(path):
    fields = GGUFReader(path).fields
    get = lambda key, default=None: fields[key].contents() if key in fields else default
    proto = pb.ModelProto()
    proto.trainer_spec.model_type = pb.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(get("tokenizer.ggml.add_space_prefix", True))
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    for text, score, kind in zip(get("tokenizer.ggml.tokens"), get("tokenizer.ggml.scores"),
                                 get("tokenizer.ggml.token_type")):
        proto.pieces.add(piece=text, score=score, type=kind)
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=3000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("binary")
    args.add_argument("files", nargs="+")
    args = args.parse_args()
    # SentencePiece takes NUL for the end of a text in some places
    texts = [text.replace("\0", "") for text in random_texts.texts(args.n, args.seed)]
    bad = 0
    for path in args.files:
        reference = load(path)
        lines = "".join(text.encode().hex() + "\n" for text in texts)
        ours = subprocess.run([args.binary, path], input=lines, text=True, capture_output=True,
                              check=True).stdout.split("\n")
        wrong = 0
        for text, line in zip(texts, ours):
            want, got = reference.encode(text), [int(i) for i in line.split()]
            if want != got:
                wrong += 1
                if wrong <= 5:
                    print(f"{path}: {text!r}\n  sentencepiece {want}\n  ours          {got}")
        print(f"{path}: {len(texts)} texts: {wrong} differ", flush=True)
        bad += wrong
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
