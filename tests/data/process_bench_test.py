import gzip
import json

import numpy as np
import pytest

from pav_jax.data import process_bench
from pav_jax.problems.plain_text import PlainText
from pav_jax.problems.vocabulary import Vocabulary

ENTRIES = [
  {
    "id": "made-0",
    "generator": "nobody",
    "problem": "3+4*2:",
    "steps": ["3+4=7", "7*2=15"],
    "final_answer_correct": False,
    "label": 1,
  },
  {
    "id": "made-1",
    "problem": "1+1:",
    "steps": ["1+1=2"],
    "final_answer_correct": True,
    "label": -1,
  },
]


def write(path, entries, *, lines):
  dumped = [json.dumps(entry, ensure_ascii=False) for entry in entries]
  text = "\n".join(dumped) + "\n" if lines else f"\n[{', '.join(dumped)}]"
  path.write_text(text, encoding="utf-8")
  return path


@pytest.mark.parametrize("lines", [False, True])
def test_both_formats_are_read(tmp_path, lines):
  path = write(tmp_path / "made", ENTRIES, lines=lines)
  assert process_bench.read(path) == [
    process_bench.Sample("made-0", "3+4*2:", ("3+4=7", "7*2=15"), 1, False),
    process_bench.Sample("made-1", "1+1:", ("1+1=2",), -1, True),
  ]


@pytest.mark.parametrize("lines", [False, True])
def test_a_byte_order_mark_and_compression_are_no_matter(tmp_path, lines):
  plain = write(tmp_path / "made", ENTRIES, lines=lines)
  want = process_bench.read(plain)
  path = tmp_path / "made.jsonl"
  path.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
  assert process_bench.read(path) == want
  path.write_bytes(gzip.compress(path.read_bytes()))
  assert process_bench.read(path) == want


def test_lines_may_hold_what_looks_like_their_end(tmp_path):
  # U+2028 is a line break to Python's splitlines, not to JSON.
  steps = ["a\u2028b", "c\r\nd"]
  entries = [ENTRIES[1] | {"steps": steps}]
  path = write(tmp_path / "made.jsonl", entries, lines=True)
  assert process_bench.read(path)[0].steps == tuple(steps)


def test_rollout_by_hand(tmp_path):
  path = write(tmp_path / "made", ENTRIES, lines=True)
  vocabulary = Vocabulary()
  got = process_bench.rollout(process_bench.read(path), PlainText(vocabulary))
  # `3+4*2:` is 6 tokens, `3+4=7` and a newline 6; the last step has the end
  # token in the newline's place.
  np.testing.assert_array_equal(got.prefix_len, [[6, 12, 18], [4, 10, 10]])
  text = [
    vocabulary.decode(ids[:n])
    for ids, n in zip(got.tokens, got.prefix_len[:, -1], strict=True)
  ]
  assert text == ["3+4*2:3+4=7\n7*2=15<end>", "1+1:1+1=2<end>"]
  np.testing.assert_array_equal(got.tokens[1, 10:], 0)
  np.testing.assert_array_equal(got.outcome, [0, 1])
  np.testing.assert_array_equal(got.problem_id, [0, 1])
  assert not got.logp.any() and got.logp.shape == got.tokens.shape


def test_texts_that_cannot_be_tokens_are_refused():
  sample = process_bench.Sample("x", "1+1:", ("one",), -1, True)
  with pytest.raises(ValueError, match="sample 'x': text 'one' has no token"):
    process_bench.rollout([sample], PlainText(Vocabulary()))
  with pytest.raises(ValueError, match="no sample"):
    process_bench.rollout([], PlainText(Vocabulary()))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"label": True}, "'label' in line 2 of .* is true, expected a whole"),
    ({"label": 0.0}, r"'label' in line 2 of .* is 0\.0, expected a whole"),
    ({"label": "-1"}, "'label' .* is \"-1\", expected a whole number"),
    ({"label": 1}, "'label' .* is 1, expected -1 … 0 with 1 steps"),
    ({"label": -100}, "'label' .* is -100, expected -1 … 0"),
    ({"steps": "1+1=2"}, "'steps' .* expected a list of strings"),
    ({"steps": []}, r"'steps' .* is \[\], expected a list of strings"),
    ({"steps": ["a", None]}, "'steps' .* expected a list of strings"),
    ({"problem": None}, "'problem' .* is null, expected a string"),
    ({"id": 7}, "'id' .* is 7, expected a string"),
    ({"id": "made-0"}, "line 2 of .* has the id 'made-0' of line 1 of"),
    ({"final_answer_correct": 1}, "is 1, expected true or false"),
    ({"problem": 9 * ["long text"]}, "'problem' .*…, expected a string"),
  ],
)
def test_wrong_fields_are_named(tmp_path, change, message):
  entries = [ENTRIES[0], ENTRIES[1] | change]
  path = write(tmp_path / "made.jsonl", entries, lines=True)
  with pytest.raises(ValueError, match=message):
    process_bench.read(path)


@pytest.mark.parametrize("field", ["id", "problem", "steps", "label"])
def test_missing_fields_are_named(tmp_path, field):
  entry = {k: v for k, v in ENTRIES[0].items() if k != field}
  path = write(tmp_path / "made.json", [ENTRIES[1], entry], lines=False)
  with pytest.raises(ValueError, match=f"entry 1 of .* has no '{field}'"):
    process_bench.read(path)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (b"", "holds no entry"),
    (b"[]", "holds no entry"),
    (b'[{"id": 1', "is not JSON"),
    (b'{"id": 1', "line 1 of .* is not JSON"),
    (b'{\n "id": "x"\n}', "line 1 of .* expected a list of entries, or one"),
    (b"[3]", "entry 0 of .* is 3, expected an object"),
    (b"\xff", "is not UTF-8"),
    (b"[" * 100_000, "made is not JSON: it is nested too deeply"),
    (b'{"a":' * 100_000, "line 1 of .* nested too deeply"),
  ],
)
def test_files_that_are_none_are_refused(tmp_path, text, message):
  path = tmp_path / "made"
  path.write_bytes(text)
  with pytest.raises(ValueError, match=message):
    process_bench.read(path)
