"""Random texts that are hard on tokenizers, reproducible by seed.

Only characters that Unicode 14 knows: what the regular expressions of older and newer libraries
think of younger ones differs, and no model's training text depends on it.
"""
import random
import unicodedata

_EMOJI = ["\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466", "\u2764\uFE0F\u200D\U0001F525",
          "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001F44D\U0001F3FD", "1\uFE0F\u20E3",
          "\U0001F1E9\U0001F1EA", "\U0001F600"]
_PIECES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\u00a0", "\u3000", "\u2028", "\u0085",
           "\u180e", "\u200b", "\ufeff", "\u0000", "'s", "'T", "'re", "'VE", "'ll", "'\u017f", "I'd", "don't",
           "can't've", "\u2019s", "a", "the", " the", "The", " Hello", "WORLD", "camelCase", "snake_case",
           "0", "12", "123", "1234", "12345678", "3.14159", "1,000,000", "\u0663\u0664", "\u00bd", "\u2167",
           "\u00e9", "e\u0301", "\u1e0d\u0307", "d\u0323\u0307", "\u0301", "\u0e01\u0e33", "\u0928\u093f",
           "\uac00", "\u1100\u1161", "\u4f60\u597d", "\u65e5\u672c\u8a9e", "\u0440\u0443\u0441",
           "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\ufb01", "\u212b", "\ufffd",
           "!", "?!", "...", "--", "->", "=>", "==", "!=", "$5", "<|im_end|>", "<s>", "</s>", "{", "}};",
           "(x)", "[0]", "\\n", "http://a.b/c?d=e#f", "user@host", "#include <stdio.h>\n", "\tfor (;;)\n",
           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 40, " " * 33, "\n" * 9, "ab" * 20]


def _letter(rng):
    while True:
        block = rng.choice([(0x20, 0x7f), (0xa0, 0x24f), (0x370, 0x5ff), (0x900, 0xdff), (0x1e00, 0x2bff),
                            (0x3040, 0x30ff), (0x4e00, 0x9fff), (0xa000, 0xd7a3), (0xf900, 0xffef),
                            (0x10000, 0x105ff), (0x1d400, 0x1d7ff), (0x1f300, 0x1faff), (0x20000, 0x2a6df)])
        c = chr(rng.randint(*block))
        if unicodedata.category(c) not in ("Cn", "Cs", "Co") and ord(c) not in _YOUNG:
            return c


# assigned after Unicode 14 within the blocks above
_YOUNG = {0xcf3, 0xece, 0x1faf8, 0x1faf7, 0x1fa75, 0x1fa76, 0x1fa77, 0x1faad, 0x1faae, 0x1faaf, 0x1fabb,
          0x1fabc, 0x1fabd, 0x1fabf, 0x1face, 0x1facf, 0x1fada, 0x1fadb, 0x1fae8, 0x1f6dc, 0x1fa87, 0x1fa88,
          0x2ffc, 0x2ffd, 0x2ffe, 0x2fff}


def text(rng):
    parts = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 20])):
        kind = rng.random()
        if kind < 0.55:
            parts.append(rng.choice(_PIECES))
        elif kind < 0.62:
            parts.append(rng.choice(_EMOJI))
        elif kind < 0.80:
            parts.append("".join(_letter(rng) for _ in range(rng.randint(1, 6))))
        elif kind < 0.88:
            parts.append("".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9))))
        elif kind < 0.94:
            parts.append("".join(rng.choice(" \t\n\r") for _ in range(rng.randint(1, 12))))
        else:
            parts.append("".join(rng.choice("abcdefghij ") for _ in range(rng.randint(5, 60))))
    return "".join(parts)


def texts(n, seed):
    rng = random.Random(seed)
    return [text(rng) for _ in range(n)]
