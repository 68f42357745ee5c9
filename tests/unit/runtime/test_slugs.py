import re
import unicodedata

import pytest

from cogtune.runtime.slugs import slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a rabbit waves", "a-rabbit-waves"),
        ("A Rabbit, waving!", "a-rabbit-waving"),
        ("../../etc/passwd", "etc-passwd"),
        ("$(rm -rf ~) `x` ; & | > <b>", "rm-rf-x-b"),
        ("-rf", "rf"),
        ("", "untitled"),
        ("... \n\t\0", "untitled"),
        ("\U0001f407\U0001f407", "untitled"),
        ("une caf\u00e9 d'\u00e9t\u00e9", "une-caf\u00e9-d-\u00e9t\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u5154\u5b50\u5728\u6325\u624b", "\u5154\u5b50\u5728\u6325\u624b"),
        ("\u202egnp.exe", "gnp-exe"),
        ("one two three four five six seven eight nine ten", "one-two-three-four-five-six-seven-eight"),
        ("x" * 300, "x" * 40),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize(
    "text",
    ["\u5154" * 300, "\U00020000" * 300, "a \u0130stanbul", "\ufdfa" * 9, "\ud800", "a\u0301" * 60, "CON", "a.b"],
)
def test_a_slug_is_a_safe_name(text: str) -> None:
    name = slug(text)
    assert 0 < len(name) <= 40
    assert 0 < len(name.encode()) <= 100
    assert re.search(r"[\s/.\\\0'\"$`;&|<>]", name) is None
    assert not name.startswith("-")
    assert slug(name) == name == unicodedata.normalize("NFC", name)
