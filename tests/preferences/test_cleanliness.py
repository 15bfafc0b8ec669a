import pytest

from trivium.preferences.cleanliness import code_defects


@pytest.mark.parametrize(
    ("body", "defects"),
    [
        ("return x", ()),
        ("'''doc'''\n    return x", ()),
        ("total = 0\n    for i in range(x):\n        total += x\n    return total", ()),
        ("pass", ()),
        ("return x\n    y = 1\n    return y", ("unreachable",)),
        ("while x:\n        break\n        x -= 1", ("unreachable",)),
        ("y = x\n    return x", ("unused_local",)),
        ("_ = x\n    return x", ()),
        ("pass\n    return x", ("idle_statement",)),
        ("'doc'\n    'more'\n    return x", ("idle_statement",)),
        ("x += 1\n    x += 1\n    return x", ("repeated_statement",)),
        ("x = x\n    return x", ("self_assignment",)),
        ("if x == None:\n        return 1\n    return x", ("equals_constant",)),
        ("if x == 0:\n        return 1\n    return x", ()),
        ("if True:\n        return x", ("constant_test",)),
        ("try:\n        return x\n    except:\n        return 0", ("bare_except",)),
        ("sum = x\n    return sum", ("shadowed_builtin",)),
        ("import math\n    return x", ("unused_import",)),
        ("import math\n    return math.pi", ()),
        ("def g():\n        y = 1\n    return g", ("unused_local",)),
        ("def g():\n        return y\n    y = x\n    return g", ()),
        ("return x\n\nprint(f(3))", ("top_level_call",)),
        ("return (", ("unparsed",)),
    ],
)
def test_each_kind_of_defect_is_found_once(body, defects):
    assert code_defects(f"def f(x):\n    {body}\n") == defects


def test_no_source_is_too_odd():
    assert code_defects("x = '\0'") == ("unparsed",)
    assert code_defects("(" * 5000) == ("unparsed",)
    assert code_defects("") == ()
