"""What a compiled program does, read from its text: collectives, loops, the compiler's cycles.

The text is that of a compiled module, scheduled, for one device of many (SPMD).
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute",
)  # fmt: skip

_UNKNOWN = 2**64 - 1  # cycles, in an estimate
_BITS = {"pred": 8, "bf16": 16, "token": 0}
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\d\w*)?|c64|c128)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ {1,4}(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z-]*)\((.*)$")
_CALLED = re.compile(r"(calls|to_apply|body|condition|\w+_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_SLICES = re.compile(
    r'_host_transfer_rendezvous="([^"]*)".*_megascale_target="\{([^}]*)\}.*'
    r'_megascale_transfer_type="(\w+)"'
)
_INDEX = re.compile(r"index=(\d+)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\(?([^)]*?)\)?)? \{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: of `KINDS`. An all-reduce of which each device keeps a part is a reduce-scatter.
      axes: of the mesh, between whose devices it runs.
      group: devices in one group.
      size: bytes of the whole array that is gathered, reduced or exchanged; of a permute, what one
        device sends; of a ragged exchange, what it has to send, to all as much.
      times: how often a step runs it, enclosing loops counted.
      overlapped: whether other work stands between its start and its end.
      source: of the program that was compiled, e.g. "jit(train_step)/jvp(...)/dot_general".
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    size: int
    times: int
    overlapped: bool
    source: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, by a ring (Thakur et al. 2005)."""
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.size * self.times * (self.group - 1) / self.group


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str


class Program:
    """A compiled program's text, taken apart.

    Args:
      text: of a compiled module; it is kept as the attribute `text`.
    """

    def __init__(self, text: str):
        self.text = text
        self._computations: dict[str, list[_Instruction]] = {}
        current = None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self._computations.setdefault(header[2], [])
                if header[1]:
                    self._entry = header[2]
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.append(_Instruction(*found.groups()))
        self._runs: dict[str, int] = {}
        self._callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, instructions in self._computations.items():
            for instruction in instructions:
                for callee, times in self._calls(instruction):
                    self._callers[callee].append((name, times))

    def _calls(self, instruction: _Instruction) -> Iterator[tuple[str, int]]:
        looped = instruction.opcode == "while"
        for attribute, callee in _CALLED.findall(instruction.rest):
            if looped and attribute == "body":
                yield callee, self._trips(instruction)
            elif not looped:
                yield callee, 1
        if branches := _BRANCHES.search(instruction.rest):
            for callee in branches[1].split(","):
                yield callee.strip().lstrip("%"), 1

    def _trips(self, instruction: _Instruction) -> int:
        """Returns how often a loop runs: XLA's note, or the bound and stride of its counter."""
        if noted := _TRIPS.search(instruction.rest):
            return int(noted[1])
        called = dict(_CALLED.findall(instruction.rest))
        condition, body = (self._computations[called[name]] for name in ("condition", "body"))
        bound = max(_constants(condition).values(), default=1)
        counters = [
            int(index[1])
            for each in condition
            if each.opcode == "get-tuple-element" and (index := _INDEX.search(each.rest))
        ]
        if len(counters) != 1 or body[-1].opcode != "tuple":
            return bound
        after = _operands(body[-1])[counters[0]]
        steps = [name for each in body if each.name == after for name in _operands(each)]
        constants = _constants(body)
        stride = next((constants[name] for name in steps if name in constants), 1)
        return math.ceil(bound / max(stride, 1))

    def runs(self, computation: str) -> int:
        """Returns how often a step runs `computation`; both branches of a condition count."""
        if computation == self._entry:
            return 1
        if computation not in self._runs:
            callers = self._callers[computation]
            self._runs[computation] = sum(self.runs(name) * times for name, times in callers)
        return self._runs[computation]

    def loops(self) -> dict[str, int]:
        """Returns every loop's trips by its name."""
        return {
            each.name: self._trips(each)
            for instructions in self._computations.values()
            for each in instructions
            if each.opcode == "while"
        }

    def count(self, text: str) -> int:
        """Returns how many instructions that a step runs have `text` in them, loops counted."""
        return sum(
            self.runs(name)
            for name, instructions in self._computations.items()
            for each in instructions
            if text in each.rest or text == each.opcode
        )

    def cycles(self) -> int:
        """Returns the compiler's cycle estimates of a step; Pallas and collectives have none.

        They rank variants of a step on one chip type, no more.
        """
        estimate = re.compile(r'estimated_cycles":"(\d+)"')
        return sum(
            self.runs(name) * int(found[1])
            for name, instructions in self._computations.items()
            for each in instructions
            if (found := estimate.search(each.rest)) and int(found[1]) < _UNKNOWN
        )

    def collectives(
        self, axes: Sequence[str], sizes: Sequence[int], across: str = "data"
    ) -> list[Collective]:
        """Returns the collectives of a step over a mesh of `axes` and their `sizes`.

        Those between a device and itself alone are left out. Those that cross slices go by their
        hosts, and are put down to the axis `across`.
        """
        found, fused = [], set()
        for name, instructions in self._computations.items():
            times = self.runs(name)
            for place, each in enumerate(instructions):
                kind = each.opcode.removesuffix("-start")
                if times and kind == "send" and (sent := _SLICES.search(each.rest)):
                    found.append(_between_slices(instructions, place, sent, (across,), times))
                if kind not in KINDS or not times:
                    continue
                over, group = _between(each, axes, sizes)
                if group == 1:
                    continue
                size = _size(each, kind, group)
                if kind == "ragged-all-to-all":  # into, or out of, room for the worst case
                    given = _operands(each)[0]
                    size = min(size, *(_size(x, kind, 1) for x in instructions if x.name == given))
                in_fusion = "async_collective" in name or "async-collective" in name
                if in_fusion:
                    # Parts of one collective, spread over the fusions that it runs beside.
                    channel = re.search(r"channel_id=(\d+)", each.rest)
                    if channel and (mark := (kind, channel[1], size)) in fused:
                        continue
                    fused.add(mark)
                if kind == "all-reduce" and "all-reduce-scatter" in name:
                    kind = "reduce-scatter"
                overlapped = (
                    in_fusion or _overlapped(instructions, place) or self._in_background(name)
                )
                source = _op_name(each) or self._source(name)
                found.append(Collective(kind, over, group, size, times, overlapped, source))
        return found

    def _in_background(self, computation: str) -> bool:
        """Returns whether another core runs `computation` while work goes on here.

        Its `async-start` may take no operands, but prepare what an `async-update` then begins.
        """
        for caller, _ in self._callers[computation]:
            instructions = self._computations[caller]
            for place, each in enumerate(instructions):
                if computation not in dict(self._calls(each)):
                    continue
                if each.opcode != "async-start":
                    return self._in_background(caller)
                begun = [
                    (number, other.name)
                    for number, other in enumerate(instructions)
                    if other.opcode == "async-update" and each.name in _operands(other)
                ]
                place, name = begun[0] if begun else (place, each.name)
                return _works(instructions[place + 1 :], "async-done", name)
        return False

    def _source(self, computation: str) -> str:
        """Returns the source of what calls `computation`."""
        for caller, _ in self._callers[computation]:
            for each in self._computations[caller]:
                if computation in (callee for callee, _ in self._calls(each)):
                    return _op_name(each) or self._source(caller)
        return ""


def _op_name(instruction: _Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', instruction.rest)
    return found[1].replace("\\'", "'") if found else ""


def _operands(instruction: _Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.split(")")[0])


def _constants(instructions: list[_Instruction]) -> dict[str, int]:
    """Returns the whole numbers among `instructions` by name."""
    return {
        each.name: int(each.rest.split(")")[0])
        for each in instructions
        if each.opcode == "constant" and re.match(r"[su](32|64)\[\]", each.type)
    }


def _between_slices(instructions, place: int, sent: re.Match, axes, times: int) -> Collective:
    """Returns the collective that the `send` at `place` begins and a `recv` ends."""
    meeting, slices, kind = sent.groups()
    receive = next(
        number
        for number, each in enumerate(instructions)
        if each.opcode == "recv" and f'"{meeting}"' in each.rest
    )
    begun = max(place, receive)
    return Collective(
        kind=kind.lower().replace("_", "-"),
        axes=axes,
        group=slices.count(",") + 1,
        size=_bytes(*_SHAPE.findall(instructions[place].type)[0]),
        times=times,
        overlapped=_works(instructions[begun + 1 :], "recv-done", instructions[receive].name),
        source=_op_name(instructions[place]) or meeting,
    )


def _overlapped(instructions: list[_Instruction], place: int) -> bool:
    """Returns whether work is scheduled between the start at `place` and its end."""
    start = instructions[place]
    if not start.opcode.endswith("-start"):
        return False
    done = start.opcode.replace("-start", "-done")
    return _works(instructions[place + 1 :], done, start.name)


def _works(instructions: list[_Instruction], done: str, name: str) -> bool:
    """Returns whether there is work before the `done` of `name`."""
    work = {"fusion", "custom-call", "while", "convolution", "dot", "call"}
    for each in instructions:
        if each.opcode == done and re.match(rf"%?{re.escape(name)}[,)]", each.rest):
            return False
        if each.opcode in work:
            return True
    return False


def _size(instruction: _Instruction, kind: str, group: int) -> int:
    """Returns `Collective.size`, from what the instruction gives back."""
    shapes = [_bytes(*shape) for shape in _SHAPE.findall(instruction.type)]
    if not instruction.opcode.endswith("-start"):
        return sum(shapes) * (group if kind == "reduce-scatter" else 1)
    if kind == "all-gather":  # its operand and its result
        return sum(shapes) * group // (group + 1)
    if kind == "collective-permute":  # and two scalars
        return max(shapes)
    return sum(shapes)


def _bytes(dtype: str, dims: str) -> int:
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return math.prod(int(size) for size in dims.split(",") if size) * bits // 8


def _between(
    instruction: _Instruction, axes: Sequence[str], sizes: Sequence[int]
) -> tuple[tuple[str, ...], int]:
    """Returns the mesh axes along which an instruction's devices differ, and a group's size."""
    groups = replica_groups(instruction.rest, math.prod(sizes))
    if len(groups) == 0:  # of a loop's permute that has no pair left
        return (), 1
    places = np.stack(np.unravel_index(groups, sizes), axis=-1)
    differ = (places != places[:, :1]).any(axis=(0, 1))
    over = tuple(axis for axis, differs in zip(axes, differ) if differs)
    return over, groups.shape[1]


def replica_groups(attributes: str, devices: int) -> np.ndarray:
    """Returns the groups [G, n] of device numbers that a collective's `attributes` name.

    All of XLA's forms are read: lists `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)`, which numbers
    devices in a box, transposes it and cuts it in groups; and `mesh['a'=2,'b'=4] {'b'}`, which
    names axes of a box. Of a permute the groups are its pairs.

    Args:
      attributes: what stands behind the instruction's operands.
      devices: of the program; they all are one group where none is named.
    """
    if found := _MESH.search(attributes):
        box = re.findall(r"'([^']+)'=(\d+)", found[1])
        shape = [int(size) for _, size in box]
        numbers = _numbers(found[2], math.prod(shape)).reshape(shape)
        return _grouped(numbers, [name for name, _ in box], found[3])
    if found := _IOTA.search(attributes):
        shape = [int(size) for size in found[1].split(",")]
        return _numbers(found[0].partition("=")[2], math.prod(shape)).reshape(shape)
    if found := _LISTS.search(attributes) or _PAIRS.search(attributes):
        rows = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([[int(number) for number in row.split(",")] for row in rows])
    if "source_target_pairs={}" in attributes:
        return np.zeros((0, 2), int)
    return np.arange(devices)[None]


def _numbers(given: str | None, count: int) -> np.ndarray:
    """Returns the devices of a named box, in its order: as they come, or as it says."""
    if not given:
        return np.arange(count)
    if found := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", given):
        box = [int(size) for size in found[2].split(",")]
        order = [int(axis) for axis in found[3].split(",")] if found[3] else None
        return np.arange(count).reshape(box).transpose(order).ravel()
    return np.array([int(number) for number in re.findall(r"\d+", given)])


def _grouped(numbers: np.ndarray, names: list[str], chosen: str) -> np.ndarray:
    """Returns the groups of a box `numbers` along the axes, or parts of axes, that are `chosen`.

    A part `'a':(2)4` is the middle of an axis that is cut in [2, 4, rest].
    """
    shape, group = [], []
    named = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    parts = {name: (before, middle) for name, before, middle in named}
    for name, size in zip(names, numbers.shape):
        if name not in parts:
            shape.append(size)
            continue
        before, middle = parts[name]
        if not middle:
            group.append(len(shape))
            shape.append(size)
            continue
        before, middle = int(before), int(middle)
        group.append(len(shape) + 1)
        shape += [before, middle, size // before // middle]
    rest = [axis for axis in range(len(shape)) if axis not in group]
    count = math.prod(shape[axis] for axis in group)
    return numbers.reshape(shape).transpose(rest + group).reshape(-1, count)
