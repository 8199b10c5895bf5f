# ruff: noqa: E501
import pytest

from tools import hlo_costs, hlo_text
from tools.hlo_costs import Sent

# A loop of 3 iterations (0, 2, 4 of 6), in it one that depends on data.
PROGRAM = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%sliced (p0: f32[10,8,16], p1: s32[]) -> f32[8,16] {
  %p0 = f32[10,8,16]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %d = f32[1,8,16]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %r = f32[8,16]{1,0} bitcast(%d)
}

%begin (p0: f32[4,4]) -> f32[16,4] {
  %p0.1 = f32[4,4]{1,0} parameter(0)
  %g0 = f32[16,4]{1,0} all-gather(%p0.1), channel_id=9, dimensions={0}
  ROOT %c0 = f32[16,4]{1,0} custom-call(%g0), custom_call_target="AsyncCollectiveStart"
}

%go_on (p0: f32[4,4]) -> f32[16,4] {
  %p0.2 = f32[4,4]{1,0} parameter(0)
  ROOT %g1 = f32[16,4]{1,0} all-gather(%p0.2), channel_id=9, dimensions={0}
}

%inner_cond (s: (s32[], f32[8,16])) -> pred[] {
  %s = (s32[], f32[8,16]{1,0}) parameter(0)
  %x = s32[] get-tuple-element(%s), index=0
  ROOT %odd = pred[] custom-call(%x), custom_call_target="unknown"
}

%inner_body (s: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %s.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s.1), index=0
  %v = f32[8,16]{1,0} get-tuple-element(%s.1), index=1
  %ar = f32[8,16]{1,0} all-reduce(%v), channel_id=2, to_apply=%add
  ROOT %t.1 = (s32[], f32[8,16]{1,0}) tuple(%n, %ar)
}

%cond (s: (s32[], f32[8,16], f32[10,8,16])) -> pred[] {
  %s.2 = (s32[], f32[8,16]{1,0}, f32[10,8,16]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s.2), index=0
  %limit = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (s: (s32[], f32[8,16], f32[10,8,16])) -> (s32[], f32[8,16], f32[10,8,16]) {
  %s.3 = (s32[], f32[8,16]{1,0}, /*index=2*/f32[10,8,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.3), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i.1, %two)
  %x.1 = f32[8,16]{1,0} get-tuple-element(%s.3), index=1
  %w = f32[10,8,16]{2,1,0} get-tuple-element(%s.3), index=2
  %picked = f32[8,16]{1,0} fusion(%w, %i.1), kind=kLoop, calls=%sliced, backend_config={"window_config":{"estimated_cycles":"100"}}
  %fast = f32[8,16]{1,0:T(8,128)S(1)} copy(%picked)
  %product = f32[8,8]{1,0:T(8,128)S(1)} dot(%fast, %fast), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  %init = (s32[], f32[8,16]{1,0}) tuple(%i.1, %x.1)
  %waits = (s32[], f32[8,16]{1,0}) while(%init), condition=%inner_cond, body=%inner_body, metadata={op_name="jit(f)/decode"}
  %y = f32[8,16]{1,0} get-tuple-element(%waits), index=1
  ROOT %t = (s32[], f32[8,16]{1,0}, f32[10,8,16]{2,1,0}) tuple(%next, %y, %w)
}

ENTRY %main (p: f32[8,16], w: f32[10,8,16], q: f32[4,4]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %w.1 = f32[10,8,16]{2,1,0} parameter(1)
  %q = f32[4,4]{1,0} parameter(2)
  %start = f32[16,4]{1,0} fusion(%q), kind=kCustom, calls=%begin
  %more = f32[16,4]{1,0} fusion(%q), kind=kCustom, calls=%go_on
  %gs = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%b), channel_id=3, dimensions={0}
  %gd = bf16[8,4]{1,0} all-gather-done(%gs)
  %rs = f32[2,16]{1,0} reduce-scatter(%p), channel_id=4, dimensions={0}, to_apply=%add
  %zero.1 = s32[] constant(0)
  %b = bf16[2,4]{1,0} constant({...})
  %all = (s32[], f32[8,16]{1,0}, f32[10,8,16]{2,1,0}) tuple(%zero.1, %p, %w.1)
  %loop = (s32[], f32[8,16]{1,0}, f32[10,8,16]{2,1,0}) while(%all), condition=%cond, body=%body
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.fixture(scope="module")
def counted():
  return hlo_costs.count(hlo_text.parse(PROGRAM))


def test_products_count_as_often_as_their_loop_runs(counted):
  # 8 × 8 sums of 16 products, each 2 operations; 0, 2, 4 are below 6.
  assert counted[0].flops == 3 * 2 * 8 * 8 * 16


def test_collectives_by_kind_and_size_in_loops_and_outside(counted):
  # The loop that depends on data counts once, in a loop that runs three times.
  # all-gather: 64 floats, begun by a fusion and gone on with by another, and 32
  # bfloat16. What a reduce-scatter is given is larger than what it gives.
  assert counted[0].sent == (
    Sent("all-gather", 2, 256 + 64, 256, False),
    Sent("all-reduce", 3, 3 * 512, 512, True),
    Sent("reduce-scatter", 1, 512, 512, False),
  )


def test_loops_that_depend_on_data_are_listed_with_an_iterations_costs(counted):
  _, (loop,) = counted
  assert loop.name == "jit(f)/decode"
  assert loop.each.sent == (Sent("all-reduce", 1, 512, 512, False),)
  assert loop.each.flops == 0


def test_estimates_of_the_compiler_are_summed_over_iterations(counted):
  assert counted[0].cycles == 300


def test_traffic_is_of_slices_and_of_main_memory_alone(counted):
  # An iteration: `picked` reads a slice of 512 bytes and its place of 4, and
  # writes 512; `copy` reads it and writes to another memory, where `dot` reads and writes;
  # `next` adds 4 and 4 to 4 bytes; all-reduce 512 in, 512 out, and the
  # condition's custom call is not counted.
  iteration = 1028 + 512 + 12 + 1024
  # Outside: a fusion around a collective, and one that goes on with it, read
  # nothing of their own; the start of another 16 in, 64 out; 512 in, 128 out.
  outside = 256 + 80 + 640
  assert counted[0].hbm_bytes == 3 * iteration + outside


@pytest.mark.parametrize(
  ("old", "new", "number"),
  [
    ("constant(6)", "constant(7)", 4),
    ("%two = s32[] constant(2)", "%two = s32[] constant(6)", 1),
    ("%zero.1 = s32[] constant(0)", "%zero.1 = s32[] constant(4)", 1),
    (
      "compare(%i, %limit), direction=LT",
      "compare(%limit, %i), direction=GT",
      3,
    ),
    ("add(%i.1, %two)", "multiply(%i.1, %two)", 1),  # not known: once
    (
      "body=%body",
      'body=%body, backend_config={"known_trip_count":{"n":"5"}}',
      5,
    ),
  ],
)
def test_trip_counts(old, new, number):
  text = PROGRAM.replace(old, new)
  assert text != PROGRAM
  found, _ = hlo_costs.count(hlo_text.parse(text))
  assert found.flops == number * 2 * 8 * 8 * 16


def convolution(line):
  text = f"""\
HloModule m

ENTRY %main (a: f32[1], b: f32[1]) -> f32[1] {{
{line}
}}
"""
  return hlo_costs.count(hlo_text.parse(text))[0].flops


def test_a_product_of_matrices_as_a_convolution():
  # [2, 768, 144] · [144, 9216], the batch of 2 being a spatial axis.
  assert (
    convolution(
      """\
  %a = bf16[2,768,144]{2,1,0} parameter(0)
  %b = bf16[1,144,9216]{2,1,0} parameter(1)
  ROOT %c = bf16[2,768,9216]{2,1,0} convolution(%a, %b), window={size=1}, dim_labels=0bf_0io->0bf"""
    )
    == 2 * 2 * 768 * 144 * 9216
  )


def test_a_batch_that_is_spread_out_meets_one_element_of_the_kernel_each():
  # 4 products of [5, 6] · [6, 7]: both sides have the batch as a spatial axis,
  # of which output o meets kernel place o alone, at dilation 4 and stride 3.
  assert (
    convolution(
      """\
  %a = f32[4,5,6]{2,1,0} parameter(0)
  %b = f32[4,6,7]{2,1,0} parameter(1)
  ROOT %c = f32[4,5,7]{2,1,0} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf"""
    )
    == 2 * 4 * 5 * 6 * 7
  )


def test_padding_is_not_multiplied():
  # 5 outputs of a kernel of 3 over 5 inputs with one of padding on either side:
  # 15 places less the two that meet padding.
  assert (
    convolution(
      """\
  %a = f32[1,5,1]{2,1,0} parameter(0)
  %b = f32[3,1,1]{2,1,0} parameter(1)
  ROOT %c = f32[1,5,1]{2,1,0} convolution(%a, %b), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f"""
    )
    == 2 * 13
  )


def test_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match="no ENTRY computation"):
    hlo_text.parse("HloModule empty\n")


def test_shapes_of_tuples_and_memories():
  found = hlo_text.shapes(
    "(bf16[2,<=3]{1,0:T(8,128)(2,1)S(1)}, u32[], pred[7])"
  )
  assert [(x.dtype, x.dims, x.space, x.num_bytes) for x in found] == [
    ("bf16", (2, 3), 1, 12),
    ("u32", (), 0, 4),
    ("pred", (7,), 0, 7),
  ]
