"""Plain data out of a pickle without unpickling it: the few opcodes that build lists, dicts, text and plain arrays.

A pickle is a program for a stack machine; two of its instructions, GLOBAL and REDUCE, can run anything. Here the
program is only listed (`pickletools.genops` executes nothing) and carried out by this file, which knows no way to
import or call: a name of the allow-list becomes a marker, and calling a marker builds an array of numbers or text
with checks of our own. Whatever else a pickle asks for is refused.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from zwicky.data.readers.record import Unreadable

# The names a pickle may mention, under numpy's old and new module paths.
_NUMPY_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED: dict[tuple[str, str], str] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",  # how protocol 2 writes bytes, as latin-1 text
    **{(module, "_reconstruct"): "reconstruct" for module in _NUMPY_CORE},
    **{(module, "scalar"): "scalar" for module in _NUMPY_CORE},
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",  # protocol 5
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
}
_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U\d{1,4}|S\d{1,4}|O8?|\?)")


class _Marker:
    """A name of the allow-list; it can be called only by `_call`."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Type:
    """A dtype being built: `dtype('f8')` followed by its byte order."""

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise Unreadable("its pickle names an odd array type")
        self.dtype = np.dtype(name)

    def build(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Unreadable("its pickle describes an array type badly")
        if any(part is not None for part in state[2:5]):
            raise Unreadable("its pickle holds structured arrays")
        if state[1] != "|":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array being built: shape, type and data come with the next BUILD. slots: where the memo keeps it."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    def build(self, state: object) -> np.ndarray:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Unreadable("its pickle describes an array badly")
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type):
            raise Unreadable("its pickle describes an array badly")
        return _array(shape, kind.dtype, bool(fortran), data)


def _array(shape: object, dtype: np.dtype, fortran: bool, data: object) -> np.ndarray:
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 8:
        raise Unreadable("its pickle holds an array of an odd shape")
    count = 1
    for side in shape:
        count *= side
    if dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise Unreadable("its pickle describes an array badly")
        array = np.empty(count, object)
        for position, item in enumerate(data):
            array[position] = item
    else:
        if not isinstance(data, bytes | bytearray) or len(data) != count * dtype.itemsize:
            raise Unreadable("its pickle holds an array that is cut short")
        array = np.frombuffer(bytes(data), dtype) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _call(function: object, arguments: object) -> object:
    if not isinstance(function, _Marker) or not isinstance(arguments, tuple) or not arguments:
        raise Unreadable("its pickle calls what is no array")
    name = function.name
    if name == "reconstruct" and len(arguments) == 3 and _is(arguments[0], "ndarray") and arguments[1] == (0,):
        return _Array()
    if name == "dtype":
        return _Type(arguments[0])
    if name == "encode" and isinstance(arguments[0], str) and arguments[1:] in (("latin1",), ("latin-1",)):
        return arguments[0].encode("latin1")
    if name == "scalar" and isinstance(arguments[0], _Type) and len(arguments) == 2 and isinstance(arguments[1], bytes):
        return _array((), arguments[0].dtype, False, arguments[1]).item()
    if name == "frombuffer" and len(arguments) == 4 and isinstance(arguments[1], _Type):
        return _array(arguments[2], arguments[1].dtype, arguments[3] == "F", arguments[0])
    raise Unreadable("its pickle calls an array function in an odd way")


def _is(value: object, name: str) -> bool:
    return isinstance(value, _Marker) and value.name == name


def read_pickle(data: bytes) -> Any:
    """The lists, tuples, dicts, numbers, text and arrays a pickle describes; nothing in it is executed.

    Raises Unreadable for a pickle that is damaged, cut short, or needs any name outside ALLOWED.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (value,) = machine.stack
                if value is _MARK or isinstance(value, _Marker | _Type | _Array):
                    raise Unreadable("is a pickle without data")
                return value
            machine.step(opcode.name, argument)
    except Unreadable:
        raise
    except Exception as error:  # a broken program may fail in any of its steps
        raise Unreadable(f"is a damaged pickle: {' '.join(str(error).split())[:100] or type(error).__name__}") from None
    raise Unreadable("is a damaged pickle: it does not end")


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_VALUES = _NUMBERS | _TEXTS | _BYTES


class _Machine:
    """The stack, the marks and the memo of a pickle, for the opcodes that hold data."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument.encode("latin1") if name in _BYTES and isinstance(argument, str) else argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = self._pop(count)
            stack.append(tuple(items))
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "LIST":
            stack.append(self._marked())
        elif name == "DICT":
            stack.append(_pairs(self._marked()))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._marked()
            _top(stack, list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._marked()
            _top(stack, dict).update(_pairs(items))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._remember(argument)
        elif name == "MEMOIZE":
            self._remember(len(self.memo))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name == "POP":
            stack.pop()
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(*self._pop(2)))
        elif name == "REDUCE":
            stack.append(_call(*self._pop(2)))
        elif name == "BUILD":
            (state,) = self._pop(1)
            self._build(state)
        elif name not in ("PROTO", "FRAME"):
            raise Unreadable(f"its pickle uses {name}, which plain data does not need; nothing of it was run")

    def _remember(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]
        if isinstance(self.stack[-1], _Array):
            self.stack[-1].slots.append(slot)

    def _build(self, state: object) -> None:
        target = self.stack[-1]
        if isinstance(target, _Type):
            target.build(state)
        elif isinstance(target, _Array):
            self.stack[-1] = array = target.build(state)
            self.memo.update(dict.fromkeys(target.slots, array))
        else:
            raise Unreadable("its pickle sets the state of what is no array")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(item is _MARK for item in self.stack[-count:]):
            raise Unreadable("is a damaged pickle: its stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise Unreadable("is a damaged pickle: a mark is missing")


def _named(module: object, name: object) -> _Marker:
    if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in ALLOWED:
        what = f"{module}.{name}".encode("ascii", "backslashreplace").decode()[:60]
        raise Unreadable(f"its pickle asks for {what}, which is never run; save the data without it")
    return _Marker(ALLOWED[module, name])


def _top(stack: list[Any], kind: type) -> Any:
    if not stack or type(stack[-1]) is not kind:
        raise Unreadable("is a damaged pickle: it fills what is no container")
    return stack[-1]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or not all(isinstance(key, str | int | bytes) for key in items[::2]):
        raise Unreadable("is a damaged pickle: a dict has odd keys")
    return dict(zip(items[::2], items[1::2], strict=True))
