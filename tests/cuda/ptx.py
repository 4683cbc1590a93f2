"""PTX, NVIDIA's machine language for GPUs, run on the CPU: `compiled(code)` is a library.

NVRTC makes PTX of CUDA C++, and a GPU's driver makes of it what the GPU understands. Here each
instruction becomes a call of a function of `ptx.h`, and the whole what `emulator.py` compiles:

    mad.lo.s32  %r1, %r30, %r29, %r31;
    put($r1, op_mad_lo<s32>(get<s32>($r30), get<s32>($r29), get<s32>($r31)));

So what runs is what NVIDIA's compiler made of a kernel, its inline assembly and all.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
from pathlib import Path
from typing import Any

import emulator

_TYPE = re.compile(r"pred|[bsu](?:8|16|32|64)|b?f16(?:x2)?|f32|f64")
_VARIABLE = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(?P<space>global|const|shared)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)"
    r"(?:\[(?P<length>\d*)\])?\s*(?:=\s*(?P<value>[^;]+))?;"
)
_FUNCTION = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(?P<kind>entry|func)\s*(?:\((?P<result>[^)]*)\)\s*)?"
    r"(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)[^;{]*(?P<end>[;{])"
)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
# A statement: a label, the beginning or end of a scope, a directive or an instruction.
_STATEMENT = re.compile(r"\s*(?:([\w$]+:)|([{}])|([^;]+);)")
_GUARD = re.compile(r"@(!?)([%\w$]+)\s+")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]")

_PLACES = {"%tid": "threadIdx", "%ntid": "blockDim", "%ctaid": "blockIdx", "%nctaid": "gridDim"}
# Words of an opcode that make no difference here, or one that is made elsewhere.
_SILENT = {"rn", "ftz", "sat"}
_OPERANDS = {  # of other types than the instruction's, which is T; W is twice as wide
    "op_shl": "T u32", "op_shr": "T u32", "op_selp": "T T pred", "op_mad_wide": "T T W",
    "op_bfi": "T T u32 u32",
}  # fmt: skip
_WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


class UnknownPTXError(Exception):
    """An instruction that nothing has needed yet."""


def missing() -> str | None:
    """Why NVIDIA's compiler cannot be had here, if so."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
        if pathfinder.find_nvidia_header_directory("cudart"):
            return emulator.missing
    except (ImportError, RuntimeError):
        pass
    names = "cuda-pathfinder nvidia-cuda-nvrtc nvidia-cuda-runtime"
    return f"NVIDIA's compiler or its headers are not installed; run pip install {names}"


def library(code: str, options: tuple[str, ...], include: Path) -> Path:
    """The shared library of CUDA C++, by NVIDIA's compiler: for `emulator.library`."""
    return compiled(of_cuda(code, options, include))


def of_cuda(code: str, options: tuple[str, ...], include: Path) -> str:
    """What NVIDIA's compiler makes of CUDA C++, with the options that CuPy adds."""
    code = re.sub(r'#include "(\w+\.cuh)"', lambda name: (include / name[1]).read_text(), code)
    pathfinder = importlib.import_module("cuda.pathfinder")
    headers = pathfinder.find_nvidia_header_directory("cudart")
    options += f"-I{headers}", "-arch=compute_90", "-ftz=true"
    given = [os.fsencode(o) for o in (*options, "--device-as-default-execution-space")]
    nvrtc = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    version = (ctypes.c_int * 2)()
    nvrtc.nvrtcVersion(version, ctypes.byref(version, 4))
    digest = hashlib.sha256(b"\0".join([code.encode(), *given, bytes(version)])).hexdigest()[:24]
    known = emulator.CACHE / f"{digest}.ptx"
    if known.exists():
        return known.read_text()

    def text(name: str) -> str:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        memory = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{name}")(program, memory)
        return memory.value.decode()

    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"", 0, None, None)
    if nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given)):
        raise emulator.Fault(f"NVRTC cannot compile the kernel:\n{text('ProgramLog')}")
    emulator.CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = known.with_suffix(f".{os.getpid()}")
    unfinished.write_text(text("PTX"))
    unfinished.rename(known)  # at once: another process may be reading it
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return known.read_text()


def compiled(code: str) -> Path:
    """The shared library of a module."""
    # CuPy's scans count on what all GPUs do: a barrier does not wait for who has returned.
    options = "-DRETURNED_ARRIVE=1", "-g0", "-fno-sanitize=all"
    header = emulator.precompiled(Path(__file__).with_suffix(".h"), options)
    return emulator.compiled(translated(code), options, emulator.CACHE, header)


def translated(code: str) -> str:
    """A module's functions in C++, and for each of its kernels `launch_…` and `signature_…`."""
    code = re.sub(r"//[^\n]*", "", code)
    lines = ["namespace ptx {", *_variables(code)]
    kernels = {}
    for match in _FUNCTION.finditer(code):
        name, entry = match["name"], match["kind"] == "entry"
        parameters = _PARAMETER.findall(match["parameters"])
        places = [place for _, place, _ in _PARAMETER.findall(match["result"] or "") + parameters]
        given = "void** given" if entry else ", ".join(f"char* {place}" for place in places)
        head = f"static void {name}({given})"
        if match["end"] == ";":
            lines.append(f"{head};")
            continue
        lines += [f"{head} {{", "bool carry = false;"]
        if entry:
            kernels[name] = [_size(kind) * int(n or 1) for kind, _, n in parameters]
            lines += [f"char* {place} = (char*)given[{i}];" for i, place in enumerate(places)]
        lines += _body(code, match.end())
    lines.append("}")
    for name, sizes in kernels.items():
        lines.append(f"""
extern "C" const char* signature_{name}() {{ return "{"".join(f"V{size} " for size in sizes)}"; }}
extern "C" const char* launch_{name}(const unsigned* dims, int shared, void** given,
                                     unsigned long long seed) {{
    return cuda_on_cpu::launch(ptx::{name}, dims, shared, given, seed);
}}
""")
    return "\n".join(lines)


def _variables(code: str) -> list[str]:
    """A module's own. Those in shared memory are numbers, their addresses."""
    lines, shared = [], 16  # no variable is at 0
    for match in _VARIABLE.finditer(code):
        name, size = match["name"], _size(match["type"])
        align, length = int(match["align"] or size), match["length"]
        if match["space"] != "shared":
            values = re.findall(r"[^\s{},]+", match["value"] or "")
            line = f"alignas({align}) static u{8 * size} {name}[{length or 1}]"
            cast = (f"(u{8 * size}){_literal(value)}" for value in values)
            lines.append(f"{line} = {{{', '.join(cast)}}};")
        elif length == "":  # as large as a launch says
            lines.append(f"static const u64 {name} = DYNAMIC;")
        else:
            shared = -(-shared // align) * align
            lines.append(f"static const u64 {name} = {shared};")
            shared += size * int(length or 1)
    lines.append(f"alignas(128) __shared__ char own[{shared}];")
    return [*lines, "static char* declared() { return own; }"]


def _size(kind: str) -> int:
    """Of a type, in bytes."""
    return int(re.search(r"\d+", kind)[0]) // 8


def _body(code: str, start: int) -> list[str]:
    """What follows a function's opening brace, up to the closing one."""
    lines, depth = [], 1
    while depth:
        match = _STATEMENT.match(code, start)
        label, brace, statement = match.groups()
        start = match.end()
        if statement is None:
            lines.append(f"{label};" if label else brace)
            depth += {"{": 1, "}": -1, None: 0}[brace]
        else:
            lines.append(_statement(statement.strip(), start))
    return lines


def _statement(text: str, number: int) -> str:
    if text.startswith("."):
        return _directive(text)
    guard = _GUARD.match(text)
    if guard:
        done = _statement(text[guard.end() :], number)
        return f"if ({guard[1]}{_operand(guard[2])}) {{ {done} }}"
    opcode, *operands = re.split(r"\s", text, maxsplit=1)
    return _Instruction(opcode, _split("".join(operands)), number).translated()


def _directive(text: str) -> str:
    """Of registers and memory. Shared memory is the module's, and pragmas change no result."""
    if text.startswith((".pragma", ".shared")):
        return ""
    words = re.match(r"\.(reg|local|param)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(.+)", text)
    if not words:
        raise UnknownPTXError(f"ptx.py does not know {text}")
    space, align, kind, names = words.groups()
    if space == "reg":
        found: list[str] = []
        for name in names.split(","):
            stem, many = re.match(r"([%\w$]+)(?:<(\d+)>)?", name.strip()).groups()
            found += [f"{stem}{i}" for i in range(int(many))] if many else [stem]
        register = "bool" if kind == "pred" else f"u{8 * _size(kind)}"
        return f"{register} {', '.join(map(_operand, found))};"
    name, length = re.match(r"([\w$]+)(?:\[(\d+)\])?", names).groups()
    return f"alignas({align or 8}) char {name}[{_size(kind) * int(length or 1)}];"


def _split(operands: str) -> list[str]:
    """At the commas outside of brackets."""
    return [
        x.strip() for x in re.findall(r"(?:\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^,{(\[])+", operands)
    ]


def _literal(text: str) -> str:
    if re.match(r"0[fF][0-9a-fA-F]{8}$", text):
        return f"0x{text[2:]}u"
    if re.match(r"0[dD][0-9a-fA-F]{16}$", text):
        return f"0x{text[2:]}ull"
    return f"0x{int(text, 0) & (2**64 - 1):x}ull"


def _operand(text: str) -> str:
    """A register, a number, a place in the grid or a variable's address."""
    if text == "%laneid":
        return "(u32)cuda_on_cpu::lane()"
    if text.split(".")[0] in _PLACES:
        name, axis = text.split(".")
        return f"{_PLACES[name]}.{axis}"
    if text.startswith("%"):
        return f"${text[1:]}"
    if re.match(r"-?\d", text):
        return _literal(text)
    return text


class _Instruction:
    """One that is like no other has a method of its own: `setp.lt.f32` has `_setp`."""

    def __init__(self, opcode: str, operands: list[str], number: int) -> None:
        self.opcode, self.operands, self.number = opcode, operands, number
        self.name, *self.words = opcode.split(".")
        self.types = [word for word in self.words if _TYPE.fullmatch(word)]

    def translated(self) -> str:
        special: Any = getattr(self, f"_{self.name}", self._computation)
        return special()

    def _unknown(self) -> UnknownPTXError:
        return UnknownPTXError(f"ptx.py does not know {self.opcode} {', '.join(self.operands)}")

    def _source(self, operand: str, kind: str) -> str:
        value = f"get<{kind}>({_operand(operand)})"
        return f"flushed({value})" if "ftz" in self.words else value

    def _put(self, operand: str, value: str) -> str:
        if "sat" in self.words:
            if self.types[0] not in ("f32", "f64"):
                raise self._unknown()
            value = f"saturated({value})"
        value = f"flushed({value})" if "ftz" in self.words else value
        return f"put({_operand(operand)}, {value});"

    def _parts(self, operand: str) -> list[str]:
        return _split(operand[1:-1]) if operand.startswith("{") else [operand]

    def _computation(self) -> str:
        """What has its result first and then values, all of them of its type."""
        words = [w for w in self.words if w not in _SILENT and w not in self.types]
        function = "_".join(["op", self.name, *words])
        kind = self.types[-1]
        to, *sources = self.operands
        kinds = _OPERANDS.get(function, "T " * len(sources)).split()
        kinds = [{"T": kind, "W": _WIDE.get(kind)}.get(k, k) for k in kinds]
        values = [self._source(x, k) for x, k in zip(sources, kinds, strict=True)]
        if "cc" in words or self.name in ("addc", "subc", "madc"):
            values.append("carry")
        return self._put(to, f"{function}<{kind}>({', '.join(values)})")

    def _compared(self) -> str:
        kind, how = self.types[-1], self.words[0]
        how = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(how, how)
        to, *sources = self.operands
        if "|" in to or len(sources) != 2:
            raise self._unknown()
        x, y = (self._source(source, kind) for source in sources)
        return f"op_setp_{how}<{kind}>({x}, {y})"

    def _setp(self) -> str:
        return f"{_operand(self.operands[0])} = {self._compared()};"

    def _set(self) -> str:
        return f"put({_operand(self.operands[0])}, op_set<{self.types[0]}>({self._compared()}));"

    def _cvt(self) -> str:
        to, source = self.types
        if to.endswith("x2"):
            high, low = (self._source(x, source) for x in self.operands[1:])
            return self._put(self.operands[0], f"op_cvt_x2<{to[:-2]}>({high}, {low})")
        rounding = [word for word in self.words if re.fullmatch(r"r[nzmp]i?", word)]
        if rounding and rounding[0] not in ("rn", "rni", "rzi", "rmi", "rpi"):
            raise self._unknown()
        letter = f"'{rounding[0][1]}'" if rounding and rounding[0].endswith("i") else "0"
        value = f"op_cvt<{to}, {source}>({self._source(self.operands[1], source)}, {letter})"
        return self._put(self.operands[0], value)

    def _mov(self) -> str:
        to, source = self.operands
        if self.types == ["pred"]:
            return f"{_operand(to)} = {_operand(source)};"
        size = _size(self.types[-1])
        if to.startswith("{"):  # the parts of a register
            parts = self._parts(to)
            bits = 8 * size // len(parts)
            values = [f"(u{bits})({_operand(source)} >> {i * bits})" for i in range(len(parts))]
            return " ".join(f"{_operand(part)} = {x};" for part, x in zip(parts, values))
        if source.startswith("{"):
            parts = self._parts(source)
            bits = 8 * size // len(parts)
            values = [f"(u64)(u{bits}){_operand(x)} << {i * bits}" for i, x in enumerate(parts)]
            return f"{_operand(to)} = {' | '.join(values)};"
        return f"{_operand(to)} = (u{8 * size}){_operand(source)};"

    def _cvta(self) -> str:
        to, source = map(_operand, self.operands)
        if "shared" not in self.words:
            return f"{to} = (u64){source};"
        there = "shared_address" if "to" in self.words else "(u64)shared_place"
        return f"{to} = {there}((u64){source});"

    # ------------------------------------------------------------------------------------ memory

    def _place(self, operand: str, size: int) -> str:
        name, offset = _ADDRESS.match(operand).groups()
        address = f"(u64){_operand(name)} + {int(offset or 0)}ll"
        shared = "shared" in self.words
        return f"aligned({'shared_place' if shared else '(char*)'}({address}), {size})"

    def _ld(self) -> str:
        to, source = self.operands
        kind, parts = self.types[-1], self._parts(to)
        lines = [f"{{ char* place = {self._place(source, _size(kind) * len(parts))};"]
        for i, part in enumerate(parts):
            lines.append(f"put({_operand(part)}, load<{kind}>(place + {i * _size(kind)}));")
        return " ".join([*lines, "}"])

    def _st(self) -> str:
        to, source = self.operands
        kind, parts = self.types[-1], self._parts(source)
        lines = [f"{{ char* place = {self._place(to, _size(kind) * len(parts))};"]
        for i, part in enumerate(parts):
            lines.append(f"store(place + {i * _size(kind)}, get<{kind}>({_operand(part)}));")
        return " ".join([*lines, "}"])

    def _atom(self) -> str:
        how, kind = self.words[-2:]
        to, where, value = self.operands
        given = f"{self._place(where, _size(kind))}, get<{kind}>({_operand(value)})"
        return f"put({_operand(to)}, op_atom_{how}<{kind}>({given}));"

    def _cp(self) -> str:
        if self.words[:2] == ["async", "wait_all"]:
            return "await_copies();"
        if self.words[:2] != ["async", "cg"]:
            raise self._unknown()
        to, source, _, size = self.operands
        where = f"shared_place({_operand(_ADDRESS.match(to)[1])})"
        origin = f"(char*){_operand(_ADDRESS.match(source)[1])}"
        return f"start_copy({where}, {origin}, {_operand(size)} != 0);"

    # ----------------------------------------------------------------------------------- control

    def _bra(self) -> str:
        return f"goto {self.operands[0]};"

    def _ret(self) -> str:
        return "return;"

    def _call(self) -> str:
        *result, name, given = self.operands  # each of the two in brackets
        return f"{name}({', '.join(x for group in (*result, given) for x in _split(group[1:-1]))});"

    # ---------------------------------------------------------------------------------- together

    def _bar(self) -> str:
        if self.words[0] == "warp":
            return f"__syncwarp({_operand(self.operands[0])}, {self.number});"
        if self.operands != ["0"]:
            raise self._unknown()
        return 'cuda_on_cpu::barrier("bar.sync", 0);'

    def _membar(self) -> str:
        return ""

    def _shfl(self) -> str:
        to, *given = self.operands
        to, _, found = to.partition("|")
        values = ", ".join(f"get<u32>({_operand(x)})" for x in given)
        call = f"op_shfl('{self.words[1][0]}', {self.number}, {values}, found)"
        also = f" {_operand(found)} = found;" if found else ""
        return f"{{ bool found; {_operand(to)} = {call};{also} }}"

    def _vote(self) -> str:
        to, predicate, mask = map(_operand, self.operands)
        return f"{to} = __{self.words[1]}_sync({mask}, {predicate}, {self.number});"

    def _mma(self) -> str:
        kind = self.types[1]
        if self.words[2:] != ["m16n8k16", "row", "col", "f32", kind, kind, "f32"]:
            raise self._unknown()
        values = ", ".join(_operand(x) for group in self.operands for x in self._parts(group))
        return f"op_mma<{kind}>({values});"

    def _ldmatrix(self) -> str:
        if self.words[2:4] != ["m8n8", "x4"]:
            raise self._unknown()
        transposed = str("trans" in self.words).lower()
        registers = ", ".join(map(_operand, self._parts(self.operands[0])))
        return f"op_ldmatrix({transposed}, {self._place(self.operands[1], 16)}, {registers});"
