"""Texts on which tokenizers are compared: words, numbers, code, all of Unicode.

`texts` gives the same few hundred to the scripts that make references and to
the tests that read them.
"""

import random

LINES = (
  "",
  " ",
  "  ",
  "\n",
  "\n\n",
  "\n\n\n",
  "\t",
  " \n \n",
  "\r\n",
  "Hello, world!",
  " Hello",
  "  two spaces before",
  "two spaces after  ",
  "It's we'll I'D they'RE don't",
  "1234567890",
  "3.14159 and 2,718,281",
  "x = 12 + 34 * 5 - 6 / 7",
  "Step 1: 2+3=5.\n\nStep 2: 5*4=20.\n",
  r"$\frac{1}{2} \times \sqrt{2} \leq \sum_{i=0}^{n} x_i^2$",
  "def f(x):\n    return x ** 2  # square\n",
  'for (int i = 0; i < n; ++i) {\n\tprintf("%d\\n", a[i]);\n}',
  "<p class='a'>&amp;</p>",
  '{"a": [1, 2, {"b": null}]}',
  "naïve café — “quoted” … ½ ² ≥ ≤ ×",
  "Ångström é é",
  "日本語のテキスト、漢字とかな。",
  "Привет, мир! Ελληνικά עברית العربية",
  "हिन्दी ไทย 한국어",
  "👍🏽 👨‍👩‍👧 🇫🇷 emoji",
  "\u00a0\u2003\u200bspaces\u3000of many kinds\ufeff",
  "\x00\x01\x7f control",
  "<|im_start|>user\nhi<|im_end|>\n",
  "a<|endoftext|>b <|im_end|> c",
  "▁ is an underline",
  "The quick brown fox jumps over the lazy dog.",
  "AAAAaaaa BBBBbbbb",
  "---===***###@@@!!!???",
  "https://example.com/a/b?c=d&e=f#g",
  "C:\\Users\\name\\file.txt",
  "10th 2nd 3rd 1st 0x1F 1e-5 -273.15°C 50% $9.99",
)

_WORDS = [
  "the",
  "add",
  "carry",
  "minus",
  "result",
  "then",
  "step",
  "so",
  "answer",
  "is",
  "equal",
  "prime",
  "number",
  "of",
  "because",
  "therefore",
  "boxed",
  "let",
  "suppose",
  "Hence",
  "QED",
  "lemma",
  "7",
  "42",
  "1000",
  "3.5",
  "x",
  "y_1",
  "n²",
  "π",
  "∑",
  "→",
  "≠",
  "naïve",
  "été",
  "数",
  "ответ",
]
_JOINS = (
  " ",
  " ",
  " ",
  "  ",
  "\n",
  "\n\n",
  "\n    ",
  "\t",
  ", ",
  ". ",
  "-",
  "",
)


def texts(number: int = 300) -> list[str]:
  """The lines, then as many random mixtures as make `number` in all."""
  rng = random.Random(0)
  out = list(LINES)
  while len(out) < number:
    kind = rng.random()
    if kind < 0.7:
      parts = [
        rng.choice(_WORDS) + rng.choice(_JOINS)
        for _ in range(rng.randint(1, 12))
      ]
    else:
      ranges = ((32, 127), (32, 127), (9, 14), (0xA0, 0x250), (0x4E00, 0x4E80))
      parts = [
        chr(rng.randrange(*rng.choice(ranges)))
        for _ in range(rng.randint(1, 20))
      ]
    out.append("".join(parts))
  return out
