"""What a compiled step sends between devices, read from XLA's text of it."""

import re
from collections import Counter

_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_CALL = re.compile(rf" = (\S.*?) ({_COLLECTIVES})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\w*\[([\d,]*)\]")


def collective_bytes(compiled: str) -> dict[str, int]:
    """Bytes of the results on one device, by kind of collective; 0 kinds are left out.

    `compiled` is the text of a compiled function, `Compiled.as_text()`. What stands in the body of
    a loop counts once, however often the loop goes round.
    """
    total: Counter[str] = Counter()
    for result, kind in _CALL.findall(compiled):
        total[kind] += sum(_size(dtype, shape) for dtype, shape in _ARRAY.findall(result))
    return dict(total)


def _size(dtype: str, shape: str) -> int:
    width = 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8
    for side in filter(None, shape.split(",")):
        width *= int(side)
    return width
