"""The operations that the ladder composes: code and wording of each, as data.

In code and wording `$` stands for the operation's constant. `{x}` is the operand, `{xs}` the things it is applied to.
"""

from dataclasses import dataclass, replace

CONSTANTS: dict[str, tuple[int | str | None, ...]] = {
    "number": tuple(range(2, 10)),
    "divisor": tuple(range(3, 10)),
    "few": (2, 3, 4),
    "length": (3, 4, 5, 6),
    "letter": tuple("aeinorst"),
    "default": (-1, 0, None),
}
"""Kinds of constants and the values each may take. A divisor is not 2, which would be another name for even or odd."""


@dataclass(frozen=True)
class Operation:
    """One operation of a composition."""

    name: str
    code: str
    phrases: tuple[str, ...]
    """Wordings as a noun phrase: `the squares of {xs}`."""
    steps: tuple[str, ...] = ()
    """Wordings as an imperative: `square each of them`."""
    constant: str = ""
    """Kind of the constant in CONSTANTS, empty where there is none."""
    each: str = ""
    """Wording for a single item: `even number`, `its square`."""
    binds: int = 9
    """How tightly the code binds: 9 call or name, 8 power, 7 product, 6 sum."""
    needs: int = 0
    """How tightly an operand must bind to stand without parentheses."""

    def at(self, slot: int) -> "Operation":
        """The operation with its constant named `$slot`, so that several can stand in one program."""

        def name(text: str) -> str:
            return text.replace("$", f"${slot}")

        return replace(
            self,
            code=name(self.code),
            phrases=tuple(map(name, self.phrases)),
            steps=tuple(map(name, self.steps)),
            each=name(self.each),
        )

    def apply(self, operand: str, operand_binds: int) -> str:
        """The code with `operand` in place of `{x}`, in parentheses where it binds too loosely."""
        return self.code.replace("{x}", f"({operand})" if operand_binds < self.needs else operand)


def _table(*operations: Operation) -> dict[str, Operation]:
    return {operation.name: operation for operation in operations}


FILTERS = _table(
    Operation("even", "x % 2 == 0", ("the even numbers",), each="even number"),
    Operation("odd", "x % 2 == 1", ("the odd numbers",), each="odd number"),
    Operation("positive", "x > 0", ("the positive numbers",), each="positive number"),
    Operation("negative", "x < 0", ("the negative numbers",), each="negative number"),
    Operation(
        "above",
        "x > $",
        ("the numbers above $", "the numbers greater than $"),
        constant="number",
        each="number above $",
    ),
    Operation(
        "below", "x < $", ("the numbers below $", "the numbers less than $"), constant="number", each="number below $"
    ),
    Operation(
        "multiple",
        "x % $ == 0",
        ("the multiples of $", "the numbers divisible by $"),
        constant="divisor",
        each="multiple of $",
    ),
    Operation(
        "indivisible",
        "x % $ != 0",
        ("the numbers not divisible by $",),
        constant="divisor",
        each="number not divisible by $",
    ),
    Operation(
        "other",
        "x != $",
        ("the numbers other than $", "the numbers not equal to $"),
        constant="number",
        each="number other than $",
    ),
)
"""Conditions on a number x."""

MAPS = _table(
    Operation("square", "x * x", ("the squares of {xs}",), ("square them", "square each"), each="its square"),
    Operation("cube", "x ** 3", ("the cubes of {xs}",), ("cube them", "cube each"), each="its cube"),
    Operation(
        "times",
        "x * $",
        ("{xs}, each multiplied by $", "{xs}, each times $"),
        ("multiply each by $",),
        constant="number",
        each="$ times itself",
    ),
    Operation(
        "plus",
        "x + $",
        ("{xs}, each increased by $", "{xs}, each plus $"),
        ("add $ to each",),
        constant="number",
        each="itself plus $",
    ),
    Operation(
        "minus",
        "x - $",
        ("{xs}, each decreased by $", "{xs}, each minus $"),
        ("subtract $ from each",),
        constant="number",
        each="itself minus $",
    ),
    Operation("negate", "-x", ("the negatives of {xs}",), ("negate them", "negate each"), each="its negative"),
    Operation(
        "absolute", "abs(x)", ("the absolute values of {xs}",), ("take the absolute values",), each="its absolute value"
    ),
    Operation(
        "modulo",
        "x % $",
        ("{xs}, each modulo $",),
        ("take each modulo $",),
        constant="number",
        each="itself modulo $",
    ),
)
"""Expressions over a number x."""

REDUCES = _table(
    Operation("sum", "sum({xs})", ("the sum of {xs}", "the total of {xs}"), ("return the sum", "add them up")),
    Operation("max", "max({xs})", ("the largest of {xs}", "the maximum of {xs}"), ("return the largest",)),
    Operation("min", "min({xs})", ("the smallest of {xs}", "the minimum of {xs}"), ("return the smallest",)),
    Operation("last", "{list}[-1]", ("the last of {xs}",), ("return the last one",)),
    Operation(
        "ascending",
        "sorted({xs})",
        ("{xs}, sorted", "{xs}, in ascending order"),
        ("sort them", "return them in ascending order"),
    ),
    Operation(
        "descending",
        "sorted({list}, reverse=True)",
        ("{xs}, in descending order", "{xs}, sorted from high to low"),
        ("return them in descending order",),
    ),
    Operation(
        "reversed", "{list}[::-1]", ("{xs}, in reverse order", "{xs}, reversed"), ("reverse the list", "reverse them")
    ),
    Operation("take", "{list}[:$]", ("the first $ of {xs}",), ("return the first $",), constant="few"),
    Operation(
        "range",
        "max({name}) - min({name})",
        ("the largest minus the smallest of {xs}", "the range of {xs}"),
        ("return the largest minus the smallest", "return the range"),
    ),
)
"""What is made of a list: `{xs}` may be a generator, `{list}` must be a list, `{name}` is used twice."""

ARITHMETIC = _table(
    Operation("plus", "{x} + $", ("add $ to {x}", "increase {x} by $"), constant="number", binds=6, needs=6),
    Operation("minus", "{x} - $", ("subtract $ from {x}", "decrease {x} by $"), constant="number", binds=6, needs=6),
    Operation("times", "{x} * $", ("multiply {x} by $",), constant="number", binds=7, needs=7),
    Operation(
        "divide",
        "{x} // $",
        ("divide {x} by $ rounding down", "floor divide {x} by $"),
        constant="number",
        binds=7,
        needs=7,
    ),
    Operation(
        "modulo",
        "{x} % $",
        ("take {x} modulo $", "take the remainder of {x} by $"),
        constant="number",
        binds=7,
        needs=7,
    ),
    Operation("square", "{x} ** 2", ("square {x}",), binds=8, needs=9),
    Operation("cube", "{x} ** 3", ("cube {x}",), binds=8, needs=9),
    Operation("negate", "-{x}", ("negate {x}",), binds=7, needs=8),
    Operation("absolute", "abs({x})", ("take the absolute value of {x}",)),
    Operation("cap", "min({x}, $)", ("cap {x} at $", "take the smaller of {x} and $"), constant="number"),
    Operation("floor", "max({x}, $)", ("take the larger of {x} and $",), constant="number"),
)
"""Steps on one number."""

PAIRS = _table(
    Operation("sum", "a + b", ("add a and b", "add b to a"), binds=6),
    Operation("difference", "a - b", ("subtract b from a",), binds=6),
    Operation("product", "a * b", ("multiply a by b", "multiply a and b"), binds=7),
    Operation("larger", "max(a, b)", ("take the larger of a and b",)),
    Operation("smaller", "min(a, b)", ("take the smaller of a and b",)),
)
"""First steps that make one number of two."""

TEXT = _table(
    Operation("upper", "{x}.upper()", ("convert {x} to upper case",), needs=9),
    Operation("lower", "{x}.lower()", ("convert {x} to lower case",), needs=9),
    Operation("title", "{x}.title()", ("convert {x} to title case",), needs=9),
    Operation("reverse", "{x}[::-1]", ("reverse {x}",), needs=9),
    Operation("head", "{x}[:$]", ("take the first $ characters of {x}",), constant="number", needs=9),
    Operation("tail", "{x}[-$:]", ("take the last $ characters of {x}",), constant="number", needs=9),
    Operation("behead", "{x}[$:]", ("drop the first $ characters of {x}",), constant="number", needs=9),
    Operation("curtail", "{x}[:-$]", ("drop the last $ characters of {x}",), constant="number", needs=9),
    Operation("repeat", "{x} * $", ("repeat {x} $ times",), constant="few", binds=7, needs=7),
    Operation(
        "remove",
        '{x}.replace("$", "")',
        ("remove the letter $ from {x}", "remove every $ from {x}"),
        constant="letter",
        needs=9,
    ),
    Operation("dashes", '{x}.replace(" ", "-")', ("replace the spaces in {x} by dashes",), needs=9),
    Operation("unspace", '{x}.replace(" ", "")', ("remove the spaces from {x}",), needs=9),
    Operation("consonants", '"".join(c for c in {x} if c not in "aeiou")', ("drop the vowels from {x}",)),
    Operation("shuffle", '"".join(sorted({x}))', ("sort the characters of {x}",)),
)
"""Steps from a string to a string."""

TEXT_ENDS = _table(
    Operation("length", "len({x})", ("count the characters of {x}", "return the length of {x}")),
    Operation("count", '{x}.count("$")', ("count the letter $ in {x}",), constant="letter", needs=9),
    Operation("words", "{x}.split()", ("split {x} into words",), needs=9),
    Operation("wordcount", "len({x}.split())", ("count the words of {x}",), needs=9),
    Operation("firstword", "{x}.split()[0]", ("return the first word of {x}",), needs=9),
    Operation("letters", "list({x})", ("return the list of characters of {x}",)),
)
"""Last steps, from a string to something else."""

WORD_FILTERS = _table(
    Operation("longer", "len(w) > $", ("the words longer than $",), constant="length"),
    Operation("shorter", "len(w) < $", ("the words shorter than $",), constant="length"),
    Operation("starting", 'w.startswith("$")', ("the words starting with $",), constant="letter"),
    Operation("ending", 'w.endswith("$")', ("the words ending with $", "the words ending in $"), constant="letter"),
    Operation("containing", '"$" in w', ("the words containing $", "the words with the letter $"), constant="letter"),
    Operation("lacking", '"$" not in w', ("the words not containing $",), constant="letter"),
)
"""Conditions on a word w."""

WORD_MAPS = _table(
    Operation("upper", "w.upper()", ("{xs}, in upper case",), ("convert them to upper case",)),
    Operation("reverse", "w[::-1]", ("{xs}, each reversed",), ("reverse each",)),
    Operation("lengths", "len(w)", ("the lengths of {xs}",), ("take their lengths",)),
    Operation("initials", "w[0]", ("the first letters of {xs}",), ("take their first letters",)),
    Operation("clip", "w[:$]", ("the first $ letters of {xs}",), ("take the first $ letters of each",), "few"),
)
"""Expressions over a word w."""

WORD_REDUCES = _table(
    Operation("list", "{list}", ("{xs}",), ("return the list",)),
    Operation("ascending", "sorted({xs})", ("{xs}, sorted",), ("sort them",)),
    Operation("last", "{list}[-1]", ("the last of {xs}",), ("return the last one",)),
    Operation("join", '" ".join({xs})', ("{xs}, joined by spaces",), ("join them by spaces",)),
    Operation("dash", '"-".join({xs})', ("{xs}, joined by dashes",), ("join them by dashes",)),
    Operation("longest", "max({list}, key=len)", ("the longest of {xs}",), ("return the longest",)),
    Operation("count", "len({list})", ("the number of {xs}",), ("return how many there are",)),
)
"""What is made of a list of words."""

GUARDED = _table(
    Operation("largest", "max(({xs}), default=$)", ("the largest {each} in xs, or $ if there is none",), (), "default"),
    Operation(
        "smallest", "min(({xs}), default=$)", ("the smallest {each} in xs, or $ if there is none",), (), "default"
    ),
    Operation("first", "next(({xs}), $)", ("the first {each} in xs, or $ if there is none",), (), "default"),
)
"""Choices of one number with an answer for the case that there is none."""

COUNT = Operation("count", "xs.count(x)", (), each="its count")
"""The value of a counting dict."""
