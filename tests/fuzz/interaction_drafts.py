"""Interaction files in the making, and what may be odd about them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from fuzz.damage import pick

_MISSING = ", NA, nan, NaN, None, null, N/A, #N/A, <NA>, NULL, n/a, -nan"
_ODD_TOKENS = [
    "é",
    "日本",
    "😀",
    "a b",
    " a",
    "a ",
    "0",
    "007",
    "7",
    "7.0",
    "1e3",
    "True",
    "inf",
    "-",
]
_ODD_TOKENS += ["a:b", "a,b", "#a", "a'b", 'a"b', "a\\b", "a\u2028b", "a\x0bb", "a\x85b", "a\x1cb"]
_ODD_TOKENS += ["\u200f", "a\x00b", "[PAD]", "x" * 5000, "e\u0301", "\ufeffa", "=1+1", "a%sb"]
_ODD_TIMES = "1_000, 0x10,  5, 5 , 2020-01-01, inf, -inf, 1e400, 1e39, -1, 1e-50, five, +5, 5e, --5"
_ODD_TIMES += ", True, ٣, 1e3, .5, 5., 00005, 999999999999999999999, 1;5"


@dataclass
class Draft:
    """A file in the making, with the keys that belong to it.

    Attributes:
        header: (name, type) of the columns.
        rows: texts.
    """

    header: list[list[str]]
    rows: list[list[str]]
    separator: str = "\t"
    line_end: str = "\n"
    encoding: str = "utf-8"
    ends: bool = True
    keys: dict = field(default_factory=dict)

    def content(self) -> bytes:
        lines = [self.separator.join(":".join(column) for column in self.header)]
        lines += [self.separator.join(row) for row in self.rows]
        text = self.line_end.join(lines) + (self.line_end if self.ends else "")
        return text.encode(self.encoding, "replace")


# ---- mutations: each changes the draft, and says how ------------------------------------------------


def missing_value(choose: random.Random, draft: Draft) -> str:
    row, column = choose.choice(draft.rows), choose.randrange(3)
    row[column] = pick(choose, _MISSING)
    return f"column {column} of a row is {row[column]!r}"


def odd_token(choose: random.Random, draft: Draft) -> str:
    column = choose.randrange(2)
    old, new = choose.choice(draft.rows)[column], choose.choice(_ODD_TOKENS)
    for row in draft.rows:
        if row[column] == old:
            row[column] = new
    return f"{old} is called {new[:20]!r}"


def odd_time(choose: random.Random, draft: Draft) -> str:
    row = choose.choice(draft.rows)
    row[2] = pick(choose, _ODD_TIMES)
    return f"a time is {row[2]!r}"


def close_times(choose: random.Random, draft: Draft) -> str:
    """Times that float32 cannot tell apart, in files out of order."""
    base, step = choose.choice(
        [(1.7e9, 1), (1.7e12, 1), (1.7e12, 1000), (1e15, 1), (2**24, 1), (1, 1e-9)]
    )
    for row in draft.rows:
        row[2] = repr(base + step * (int(row[2]) - 1000))
    choose.shuffle(draft.rows)
    return f"times from {base:g} in steps of {step:g}, lines shuffled"


def equal_times(choose: random.Random, draft: Draft) -> str:
    step = choose.choice([2, 10_000])
    for row in draft.rows:
        row[2] = str(int(row[2]) // step)
    return "many times are equal"


def shuffled_lines(choose: random.Random, draft: Draft) -> str:
    choose.shuffle(draft.rows)
    return "lines shuffled"


def few(choose: random.Random, draft: Draft) -> str:
    """One interaction a user, one user, one item, no row at all, and the like."""
    kind = pick(
        choose,
        "one interaction a user, two a user, three a user, one user, one long user, one item, "
        "one row, no row, one user of four, two items, one time",
    )
    per_user = {"one interaction a user": 1, "two a user": 2, "three a user": 3}.get(kind)
    by_user: dict[str, list[list[str]]] = {}
    for row in draft.rows:
        by_user.setdefault(row[0], []).append(row)
    users = list(by_user.values())
    if per_user:
        draft.rows = [row for rows in users for row in rows[:per_user]]
    elif kind == "one user of four":
        draft.rows = [*users[0][:4], *(row for rows in users[1:] for row in rows[:3])]
    elif kind in ("one user", "one row", "no row"):
        draft.rows = users[0][: {"one user": 9, "one row": 1, "no row": 0}[kind]]
    for row in draft.rows:
        if kind == "one long user":
            row[0] = "u0"
        if kind in ("one item", "two items"):
            row[1] = f"i{int(row[1][1:]) % (1 + (kind == 'two items'))}"
        if kind == "one time":
            row[2] = "5"
    return kind


def duplicates(choose: random.Random, draft: Draft) -> str:
    row = choose.choice(draft.rows)
    count = choose.choice([1, 2, 50])
    at = choose.randrange(len(draft.rows))
    draft.rows[at:at] = [list(row) for _ in range(count)]
    return f"a row is there {count} times more"


def quotes(choose: random.Random, draft: Draft) -> str:
    column = choose.randrange(3)
    form = choose.choice(['"{}"', '"{}', '{}"', '""{}""', "'{}'", '"{}" ', ' "{}"', '"{}"x'])
    rows = choose.choice([draft.rows, [choose.choice(draft.rows)]])
    for row in rows:
        row[column] = form.format(row[column])
    return f"column {column} of {len(rows)} rows is written {form}"


def swapped_columns(choose: random.Random, draft: Draft) -> str:
    order = choose.sample(range(3), 3)
    draft.header[:3] = [draft.header[place] for place in order]
    if choose.random() < 0.5:
        for row in draft.rows:
            row[:3] = [row[place] for place in order]
        return f"columns in the order {order}"
    return f"names of the columns in the order {order}"


def another_header(choose: random.Random, draft: Draft) -> str:
    column = draft.header[choose.randrange(3)]
    old = ":".join(column)
    name, kind = column
    types = pick(choose, "string, token_seq, float, token, float_seq").split()
    others = [[name], [name, kind, "x"], [name, *types], [name, *types], [name + " ", kind]]
    others += [[name.upper(), kind], [name, kind + " "], [""], ["", kind], ["\ufeff" + name, kind]]
    new = choose.choice([*others, [draft.header[0][0], kind]])
    column[:] = new
    return f"header: {old} is {':'.join(new)!r}"


def no_header(choose: random.Random, draft: Draft) -> str:
    draft.header = [[text] for text in draft.rows.pop(0)]
    return "no header"


def renamed_columns(choose: random.Random, draft: Draft) -> str:
    key, place = choose.choice([("USER_ID_FIELD", 0), ("ITEM_ID_FIELD", 1), ("TIME_FIELD", 2)])
    draft.header[place][0] = name = choose.choice(
        ["x", "a b", "é", "user", "item_length", "time.1", ""]
    )
    draft.keys[key] = name
    draft.keys["load_col"] = {"inter": [column[0] for column in draft.header]}
    return f"{key} is {name!r}, in the file as well"


def more_columns(choose: random.Random, draft: Draft) -> str:
    kind = choose.choice(["float", "token", "token_seq", "float_seq"])
    draft.header.append(["more", kind])
    for number, row in enumerate(draft.rows):
        value = "abc" if kind == "token" else "1 2" if kind.endswith("seq") else "1"
        row += choose.choice([[value], [value], [""], ["x"], []]) if number % 9 == 0 else [value]
    if choose.random() < 0.3:
        draft.keys["load_col"] = choose.choice([None, {"inter": "*"}])
    return f"a column more:{kind}, load_col {draft.keys.get('load_col', 'without it')}"


def wrong_number_of_columns(choose: random.Random, draft: Draft) -> str:
    kind = pick(choose, "trailing, short, long, first long, first short, all short, shifted")
    rows = [choose.choice(draft.rows)]
    if "first" in kind:
        rows = draft.rows[:1]
    elif kind in ("trailing", "all short"):
        rows = draft.rows
    for row in rows:
        if kind == "trailing":
            row.append("")
        elif kind == "shifted":
            row.insert(0, "")
        elif "long" in kind:
            row.append("9")
        else:
            row.pop()
    return f"{len(rows)} rows have {kind} columns"


def another_separator(choose: random.Random, draft: Draft) -> str:
    draft.separator = choose.choice(
        [",", ";", "|", "::", "||", " ", "\t\t", "^", ".", "\\t", "\x01", "é"]
    )
    if choose.random() < 0.8:
        draft.keys["field_separator"] = draft.separator
    return f"separator {draft.separator!r}, key {draft.keys.get('field_separator', 'left out')!r}"


def another_line_end(choose: random.Random, draft: Draft) -> str:
    draft.line_end = choose.choice(
        ["\r\n", "\r", "\n\n", "\n\r\n", "\n \n", "\n\t\n", "\x85", "\u2028", "\n#\n"]
    )
    draft.ends = choose.random() < 0.7
    return f"line end {draft.line_end!r}, {'also' if draft.ends else 'not'} after the last"


def another_encoding(choose: random.Random, draft: Draft) -> str:
    odd_token(choose, draft)
    encodings = "latin-1, utf-16, utf-8-sig, cp1252, utf-16-le, utf-32, shift-jis, utf-7"
    draft.encoding = pick(choose, encodings)
    given = choose.choice(
        [draft.encoding, draft.encoding, None, "utf-8", "ascii", "latin-1", "no-such", 8]
    )
    if given is not None:
        draft.keys["encoding"] = given
    return f"encoding {draft.encoding}, key {given!r}"


MUTATIONS = [
    *(
        missing_value,
        odd_token,
        odd_time,
        close_times,
        equal_times,
        shuffled_lines,
        few,
        duplicates,
    ),
    *(quotes, swapped_columns, another_header, no_header, renamed_columns, more_columns),
    *(wrong_number_of_columns, another_separator, another_line_end, another_encoding),
]
