"""What the instructions of PTX do on the CPU, beside NVIDIA's manual ("PTX ISA")."""

import ctypes
import functools
import math

import emulator
import numpy as np
import ptx
import pytest

pytestmark = pytest.mark.skipif(emulator.missing is not None, reason=str(emulator.missing))

NAN, TINY = np.float32("nan"), np.float32(1e-40)


def f32(bits):
    return np.uint32(bits).view(np.float32)


def f16(x, dtype=np.float16):
    return np.array(x, dtype).view(np.uint16)[()]


# What is done with a, b and c, and what is then in d.
CASES = [
    ("add.s32 d, a, b", [np.int32(2**31 - 1), np.int32(1)], np.int32(-(2**31))),
    ("mul.lo.s32 d, a, b", [np.int32(-3), np.int32(7)], np.int32(-21)),
    ("mul.hi.s32 d, a, b", [np.int32(-3), np.int32(2**30)], np.int32(-1)),
    ("mul.hi.u64 d, a, b", [np.uint64(2**63), np.uint64(6)], np.uint64(3)),
    ("mul.wide.s32 d, a, b", [np.int32(-3), np.int32(2**30)], np.int64(-3 * 2**30)),
    ("mad.wide.u32 d, a, b, c", [*map(np.uint32, (2**31, 4)), np.uint64(5)], np.uint64(2**33 + 5)),
    ("mad.lo.s32 d, a, b, c", [*map(np.int32, (-3, 7, 1))], np.int32(-20)),
    ("div.s32 d, a, b", [np.int32(-7), np.int32(2)], np.int32(-3)),
    ("rem.s32 d, a, b", [np.int32(-7), np.int32(2)], np.int32(-1)),
    ("shl.b32 d, a, b", [np.uint32(1), np.uint32(32)], np.uint32(0)),
    ("shr.u32 d, a, b", [np.uint32(2**31), np.uint32(33)], np.uint32(0)),
    ("shr.s32 d, a, b", [np.int32(-(2**31)), np.uint32(33)], np.int32(-1)),
    ("shr.s64 d, a, b", [np.int64(-256), np.uint32(4)], np.int64(-16)),
    ("not.b32 d, a", [np.uint32(5)], np.uint32(2**32 - 6)),
    ("popc.b32 d, a", [np.uint32(0xF0F)], np.uint32(8)),
    ("clz.b32 d, a", [np.uint32(0xF0F)], np.uint32(20)),
    ("clz.b64 d, a", [np.uint64(0)], np.uint32(64)),
    ("bfind.shiftamt.u32 d, a", [np.uint32(0xF0F)], np.uint32(20)),
    ("brev.b32 d, a", [np.uint32(0b1011)], np.uint32(0b1101 << 28)),
    ("bfi.b32 d, a, b, 8, 4", [*map(np.uint32, (0xAB, 2**32 - 1))], np.uint32(0xFFFFFBFF)),
    ("{ .reg .b32 t; add.cc.u32 t, a, b; addc.u32 d, 0, 0; }", [np.uint32(2**31)] * 2,
     np.uint32(1)),
    ("{ .reg .b32 t; sub.cc.u32 t, a, b; subc.u32 d, 5, 0; }", [*map(np.uint32, (1, 2))],
     np.uint32(4)),
    ("{ .reg .b32 t; mad.lo.cc.u32 t, a, b, c; madc.hi.u32 d, a, b, 7; }",
     [*map(np.uint32, (2**31, 3, 2**31))], np.uint32(1 + 1 + 7)),
    ("min.s32 d, a, b", [np.int32(-1), np.int32(1)], np.int32(-1)),
    ("max.u32 d, a, b", [np.uint32(2**32 - 1), np.uint32(1)], np.uint32(2**32 - 1)),
    ("max.f32 d, a, b", [NAN, np.float32(1)], np.float32(1)),
    ("copysign.f32 d, a, b", [np.float32(-0.0), np.float32(3)], np.float32(-3)),
    ("abs.f32 d, a", [np.float32(-0.0)], np.float32(0)),
    ("add.f32 d, a, b", [TINY, TINY], np.float32(2) * TINY),
    ("add.ftz.f32 d, a, b", [TINY, TINY], np.float32(0)),
    ("mul.ftz.f32 d, a, b", [np.float32(1e-20)] * 2, np.float32(0)),
    ("add.rz.f32 d, a, b", [np.float32(1), f32(0x33FFFFFF)], np.float32(1)),
    ("fma.rn.f32 d, a, b, c", [np.float32(1 + 2**-12)] * 2 + [np.float32(-1 - 2**-11)],
     np.float32(2**-24)),
    ("fma.rm.f32 d, a, b, c", [np.float32(1), np.float32(1), f32(0x33FFFFFF)], np.float32(1)),
    ("fma.rn.f64 d, a, b, c", [1 + 2.0**-30, 1 + 2.0**-30, -1 - 2.0**-29], 2.0**-60),
    ("ex2.approx.ftz.f32 d, a", [np.float32(-3)], np.float32(0.125)),
    ("sqrt.rn.f32 d, a", [np.float32(2)], np.float32(math.sqrt(2))),
    ("rcp.approx.ftz.f64 d, a", [np.float64(0.5)], np.float64(2)),
    ("cvt.rni.s32.f32 d, a", [np.float32(2.5)], np.int32(2)),
    ("cvt.rzi.s32.f32 d, a", [np.float32(-2.5)], np.int32(-2)),
    ("cvt.rzi.s32.f32 d, a", [NAN], np.int32(0)),
    ("cvt.rzi.s32.f32 d, a", [np.float32(1e20)], np.int32(2**31 - 1)),
    ("cvt.rzi.u32.f32 d, a", [np.float32(-5)], np.uint32(0)),
    ("cvt.rzi.s64.f64 d, a", [np.float64("-inf")], np.int64(-(2**63))),
    ("cvt.rmi.f32.f32 d, a", [np.float32(-0.5)], np.float32(-1)),
    ("cvt.sat.f32.f32 d, a", [NAN], np.float32(0)),
    ("cvt.sat.f32.f32 d, a", [np.float32(1.5)], np.float32(1)),
    ("cvt.rn.f32.s32 d, a", [np.int32(2**24 + 1)], np.float32(2**24)),
    ("cvt.rn.f32.f64 d, a", [1 + 2.0**-24], np.float32(1)),
    ("cvt.s64.s32 d, a", [np.int32(-1)], np.int64(-1)),
    ("cvt.u64.u32 d, a", [np.uint32(2**32 - 1)], np.uint64(2**32 - 1)),
    ("cvt.rn.f16.f32 d, a", [np.float32(2049)], f16(2048)),
    ("cvt.f32.f16 d, a", [f16(0.333)], np.float32(np.float16(0.333))),
    ("cvt.rn.bf16.f32 d, a", [f32(0x3F808000)], np.uint16(0x3F80)),
    ("cvt.rn.bf16x2.f32 d, a, b", [np.float32(1), np.float32(2)], np.uint32(0x3F804000)),
    ("set.nan.bf16.bf16 d, a, a", [np.uint16(0x7FC0)], np.uint16(0x3F80)),
    ("mov.b64 d, {a, b}", [np.uint32(1), np.uint32(2)], np.uint64(2**33 + 1)),
    ("{ .reg .b32 t; mov.b64 {t, d}, a; }", [np.uint64(2**33 + 1)], np.uint32(2)),
    ("mov.b64 d, 0d3FF0000000000000", [], np.float64(1)),
    ("mov.b32 d, 0f3FC00000", [], np.float32(1.5)),
    ("{ .reg .pred p; setp.lt.f32 p, a, b; selp.u32 d, 1, 2, p; }", [NAN, np.float32(1)],
     np.uint32(2)),
    ("{ .reg .pred p; setp.ltu.f32 p, a, b; selp.u32 d, 1, 2, p; }", [NAN, np.float32(1)],
     np.uint32(1)),
    ("{ .reg .pred p; setp.lo.u32 p, a, b; selp.u32 d, 1, 2, p; }",
     [np.uint32(1), np.uint32(2**32 - 1)], np.uint32(1)),
    ("{ .reg .pred p; setp.lt.s32 p, a, b; @!p mov.u32 d, 9; @p mov.u32 d, 8; }",
     [np.int32(1), np.int32(-1)], np.uint32(9)),
    ("{ .reg .b32 t; .local .align 4 .b8 m[4]; mov.u32 t, 200; st.local.u8 [m+1], t; "
     "ld.local.s8 d, [m+1]; }", [], np.int32(-56)),
    ("{ .local .align 8 .b8 m[8]; st.local.v2.u32 [m], {a, b}; ld.local.u64 d, [m]; }",
     [np.uint32(3), np.uint32(1)], np.uint64(2**32 + 3)),
    ("{ .param .b32 x; .param .b32 y; st.param.b32 [x+0], a; call.uni (y), twice, (x); "
     "ld.param.b32 d, [y+0]; }", [np.uint32(21)], np.uint32(42)),
]  # fmt: skip

HEAD = """
.version 9.0
.target sm_90
.address_size 64
.func (.param .b32 y) twice(.param .b32 x) {
    .reg .b32 %r<2>;
    ld.param.b32 %r0, [x];
    shl.b32 %r1, %r0, 1;
    st.param.b32 [y], %r1;
    ret;
}
"""


@functools.cache
def module():
    """A kernel for each case: it computes d from a, b and c, and stores it."""
    code = [HEAD]
    for i, (text, values, expected) in enumerate(CASES):
        sizes = {name: 8 * x.itemsize for name, x in zip("abc", map(np.asarray, values))}
        parameters = "".join(f", .param .b{size} p{name}" for name, size in sizes.items())
        code.append(f".visible .entry case{i}(.param .u64 out{parameters}) {{ .reg .b64 %out;")
        sizes["d"] = 8 * np.asarray(expected).itemsize
        code += [f".reg .b{size} {name};" for name, size in sizes.items()]
        code += [f"ld.param.b{sizes[x]} {x}, [p{x}];" for x in sizes if x != "d"]
        text = text if text.endswith("}") and ";" in text else f"{text};"
        code.append(f"ld.param.u64 %out, [out]; {text} st.global.b{sizes['d']} [%out], d; ret; }}")
    return ctypes.PyDLL(str(ptx.compiled("\n".join(code))))


@pytest.mark.parametrize("i", range(len(CASES)), ids=[text for text, *_ in CASES])
def test_an_instruction(i):
    _, values, expected = CASES[i]
    expected = np.asarray(expected)
    out = emulator.guarded((1,), expected.dtype)
    values = [np.asarray(x)[()] for x in values]  # Python's floats, too, as NumPy's
    emulator.Function(module(), f"case{i}")((1,), (1,), (out, *values))
    np.testing.assert_array_equal(out.view(np.uint8), expected.reshape(1).view(np.uint8))


def kernel(body, head=""):
    """The kernel whose threads have their number in %ix, and where they may write in %out."""
    code = f"""{HEAD}{head}
    .visible .entry kernel(.param .u64 out) {{
        .reg .b64 %out; .reg .b32 %ix, %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>;
        mov.u32 %ix, %tid.x; ld.param.u64 %out, [out];
        {body} ret; }}"""
    return emulator.Function(ctypes.PyDLL(str(ptx.compiled(code))), "kernel")


STORE = "mul.wide.u32 %rd8, %ix, 4; add.s64 %out, %out, %rd8; st.global.u32 [%out], %r8;"


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize(
    ("mode", "source"),
    [
        ("up", lambda lane, n, first, last: lane - n),
        ("down", lambda lane, n, first, last: lane + n),
        ("bfly", lambda lane, n, first, last: lane ^ n),
        ("idx", lambda lane, n, first, last: first + n % (last + 1 - first)),
    ],
)
def test_a_shuffle(mode, source, width):
    """As the CUDA guide has __shfl_up_sync(mask, value, 3, width) and its like."""
    segment = 32 - width << 8
    limits = segment if mode == "up" else segment | 31
    out = emulator.guarded(32, np.uint32)
    kernel(f"""mul.lo.u32 %r1, %ix, 10;
               shfl.sync.{mode}.b32 %r2|%p1, %r1, 3, {limits}, -1;
               selp.u32 %r3, 1000, 0, %p1; add.u32 %r8, %r2, %r3; {STORE}""")((1,), (32,), (out,))
    for lane in range(32):
        first = lane // width * width
        last = first + width - 1
        found = source(lane, 3, first, last)
        inside = first <= found if mode == "up" else found <= last
        assert out[lane] == (1000 + 10 * found if inside else 10 * lane)


def test_shared_memory():
    """Two variables of the module, and what the launch adds, do not overlap; a barrier."""
    head = ".shared .align 4 .b8 one[128]; .extern .shared .align 16 .b8 more[];"
    body = """.shared .align 4 .b8 other[128];
              mul.wide.u32 %rd1, %ix, 4;
              mov.u64 %rd2, one;   add.s64 %rd2, %rd2, %rd1; st.shared.u32 [%rd2], 1;
              mov.u64 %rd3, other; add.s64 %rd3, %rd3, %rd1; st.shared.u32 [%rd3], %ix;
              mov.u64 %rd4, more;  add.s64 %rd4, %rd4, %rd1; st.shared.u32 [%rd4], 100;
              bar.sync 0;
              xor.b32 %r1, %ix, 1; mul.wide.u32 %rd1, %r1, 4;
              mov.u64 %rd2, one;   add.s64 %rd2, %rd2, %rd1; ld.shared.u32 %r2, [%rd2];
              mov.u64 %rd3, other; add.s64 %rd3, %rd3, %rd1; ld.shared.u32 %r3, [%rd3];
              mov.u64 %rd4, more;  add.s64 %rd4, %rd4, %rd1; cvta.shared.u64 %rd5, %rd4;
              ld.u32 %r4, [%rd5]; cvta.to.shared.u64 %rd6, %rd5; ld.shared.u32 %r5, [%rd6];
              add.s32 %r8, %r2, %r3; add.s32 %r8, %r8, %r4; add.s32 %r8, %r8, %r5;"""
    out = emulator.guarded(32, np.uint32)
    kernel(body + STORE, head)((1,), (32,), (out,), shared_mem=128)
    np.testing.assert_array_equal(out, 201 + (np.arange(32) ^ 1))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("ld.global.u32 %r1, [%out+2];", "4 bytes at .*: misaligned"),
        ("ld.global.v2.u32 {%r1, %r2}, [%out+4];", "8 bytes at .*: misaligned"),
        ("st.global.u32 [%out+8192], %r1;", "outside of every buffer"),
        ("st.global.u32 [%out+-4], %r1;", "before its first element"),
        ("setp.eq.s32 %p1, %ix, 0; @%p1 bra END; bar.warp.sync -1; END:", "which has returned"),
    ],
)
def test_a_fault(body, fault):
    run = kernel(body)
    with pytest.raises(emulator.Fault, match=fault):
        run((1,), (32,), (emulator.guarded(2, np.uint32),))


def test_what_is_not_known_is_said():
    with pytest.raises(ptx.UnknownPTXError, match=r"does not know bar\.red\.popc\.u32 %r1, 0, %p1"):
        kernel("bar.red.popc.u32 %r1, 0, %p1;")
    with pytest.raises(emulator.Fault, match="op_prmt"):
        kernel("prmt.b32 %r1, %r2, %r3, %r4;")
