"""What a diagnosis says as a card of TensorBoard, letter for letter."""

import dataclasses
import re

import hypothesis
import pytest
from hypothesis import strategies as st
from tensorboard import plugin_util

from keras_gradguard.report.cards import render_markdown, render_verdict
from tests.report.sample import CUT

CUT_MARKDOWN = """\
### error[GG102] comparison: `Greater` turns numbers into true and false

`train.py:12 in my_loss`

```
 11 | def my_loss(y_true, y_pred):
>12 |     hard = tf.cast(y_pred > 0.5, tf.float32)
 13 |
```

**path:** `loss <- Mean <- Abs <- Sub <- Cast <- Greater <-X- (variables)`

**lost:** 4 of 4 trainable variables

- `sequential/hidden/kernel`
- `sequential/hidden/bias`
- `sequential/head/kernel`
- `sequential/head/bias`

**why:** True and false cannot change by a little, so there is no gradient; \
a cast back to float32 does not restore one.

**note:** `Cast` on the same line would cut the gradient as well

**data:** `kind=disconnected, certainty=proved, op=Greater, loss=mse, \
step=0, epoch=0, norms=[0, 1.235e-09]`

**help:** keep the score soft

```
- hard = tf.cast(y_pred > 0.5, tf.float32)
+ soft = tf.sigmoid(10.0 * (y_pred - 0.5))
```

**help:** or compare in a metric

```
+ def metric(y_true, y_pred):
```

**more:** `python -m keras_gradguard explain GG102`"""


def test_render_markdown():
    """The whole card."""
    assert render_markdown(CUT) == CUT_MARKDOWN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("uses __init__ here", r"uses \_\_init\_\_ here"),
        ("my_loss of `__init__`", "my_loss of `__init__`"),
        ("a * b", r"a \* b"),
        ("![x](https://a.b)", r"![x\](https://a.b)"),
        ("`a|b` | c", "`a|b` | c"),
        ("one ` only", r"one \` only"),
        ("a\n\n# b", "a # b"),
        ("<img src=//a.b>", "&lt;img src=//a.b>"),
        ("[x]: //a.b", r"[x\]: //a.b"),
        ("a `<b>`", "a `<b>`"),
        ("`` ` <b> `", r"\`\` \` &lt;b> \`"),
    ],
)
def test_prose_is_safe_in_markdown(text, shown):
    """Names are not read as emphasis, links or headings."""
    card = render_markdown(dataclasses.replace(CUT, why=text))
    assert f"**why:** {shown}\n" in card


def test_code_is_safe_in_markdown():
    """Backticks in names and source lines cannot close their block."""
    odd = dataclasses.replace(
        CUT, snippet=("'''", "```", "````"), variables=("a`b|<c>/kernel",)
    )
    card = render_markdown(odd)
    assert "\n- `` a`b|<c>/kernel ``\n" in card
    assert card.count("\n`````\n") == 2


def test_markdown_blocks_stand_apart():
    """Markdown needs an empty line before a list or a block."""
    plain = dataclasses.replace(CUT, snippet=("x",), help=CUT.help[:1])
    blocks = render_markdown(plain).split("\n\n")
    assert sum(block.startswith("- `") for block in blocks) == 1
    assert sum(block.startswith("```\n") for block in blocks) == 2
    assert all(block.startswith(("#", "`", "- `", "**")) for block in blocks)


LETTERS = [*"`[]()!<>\\:/ \n*_#&;a", "![x](//a.b)", "<img src=x>", "]: //a.b"]
HOSTILE = st.lists(st.sampled_from(LETTERS), max_size=25).map("".join)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(HOSTILE, HOSTILE, HOSTILE)
def test_no_link_and_no_image_comes_through(one, two, three):
    """By the renderer of TensorBoard's own page, wherever the words stand."""
    help_ = dataclasses.replace(CUT.help[0], text=one, before=two, after=three)
    card = dataclasses.replace(
        CUT,
        message=one,
        why=two,
        function=three,
        snippet=(one, two),
        variables=(one, two, three),
        path=(one, two),
        op=three,
        help=(help_,),
        evidence={"notes": [one, two, three], "text": three},
    )
    fact = {"verdict": "broken", "facts": [one, two, three]}
    for text in (render_markdown(card), render_verdict(fact)):
        shown = plugin_util.markdown_to_safe_html(text)
        assert not re.search(r"<(img|a)[ >/]", shown), (text, shown)
