"""A chat template ends, whatever it says."""

import pytest

from luthier.datasets.templates import ChatTemplate
from luthier.errors import Invalid

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

ENDLESS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a range of many": "{% for a in range(10**12) %}{% endfor %}",
    "ranges in filters": "{% for a in range(9999) %}{% set x = range(9999) | map('string') | list %}{% endfor %}",
    "loops over a text": "{% set x = 'a' * 3000 %}{% for a in x %}{% for b in x %}{{ loop.length }}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) + f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a loop that goes into itself": (
        "{% for a in [1, 1] recursive %}{% if loop.depth < 40 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_j33_a_template_that_would_go_on_for_ever_is_refused(source):
    with pytest.raises(Invalid, match="takes more than 1000000 steps") as caught:
        ChatTemplate(source, {}).render(CHAT, None)
    assert caught.value.error_code == "template"


def test_loops_know_as_much_as_without_a_count():
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.role }} {{ loop.last }};{% else %}-{% endfor %}"
        "{% for m in messages if m.role == 'user' %}{{ loop.revindex }}{{ m.content }}{% endfor %}"
        "{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}"
        "{% for x in nothing %}{% else %}none{% endfor %}"
        "{% for i in range(5, 0, -2) %}{{ i }}{% break %}{% endfor %}"
    )
    template = ChatTemplate(source, {})
    assert template.render(CHAT, None) == "1/2 user False;2/2 assistant True;1ax1none5"
    assert template.render([], None) == "-x1none5"


def test_each_rendering_has_all_its_steps():
    template = ChatTemplate("{% for a in range(400000) %}{% endfor %}ok", {})
    assert [template.render(CHAT, None) for _ in range(3)] == ["ok"] * 3
