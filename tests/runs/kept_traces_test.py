import numpy as np

from pav_jax.runs.kept_traces import KeptTraces, Place


def place(traces, *rows, needed=None):
  needed = needed or [len(row) - 1 for row in rows]
  return traces.place([np.array(row) for row in rows], needed)


def test_a_trace_that_goes_on_takes_its_own_place():
  traces = KeptTraces(3)
  ((_, first, start),) = place(traces, [1, 2])
  assert start == 0
  assert place(traces, [1, 2, 3, 4]) == [Place(first, first, 2)]
  # What is needed again is read again.
  assert place(traces, [1, 2, 3, 4, 5], needed=[1]) == [Place(first, first, 1)]


def test_one_of_two_that_go_on_takes_the_place_and_both_its_beginning():
  traces = KeptTraces(3)
  ((_, first, _),) = place(traces, [1, 2])
  one, other = place(traces, [1, 2, 3], [1, 2, 4])
  assert one == Place(first, first, 2)
  assert (other.source, other.start) == (first, 2)
  assert other.target != first
  # The beginning that both had is there still.
  (third,) = place(traces, [1, 2, 5])
  assert third.start == 2 and third.target not in (first, other.target)


def test_what_was_read_longest_ago_gives_way():
  traces = KeptTraces(2)
  ((_, a, _),) = place(traces, [1, 1])
  ((_, b, _),) = place(traces, [2, 2])
  assert {a, b} == {0, 1}
  place(traces, [1, 1, 1])  # so [2, 2] is the older one
  assert place(traces, [3, 3])[0].target == b
  assert place(traces, [1, 1, 1, 1])[0] == Place(a, a, 3)
  assert place(traces, [2, 2, 2])[0].start == 0


def test_nothing_is_left_after_forgetting():
  traces = KeptTraces(2)
  place(traces, [1, 1])
  traces.forget()
  assert place(traces, [1, 1, 1])[0].start == 0
