"""The chat page: how it shows an answer, its reasoning, its tokens and its measurements."""

import json
import math
import random
from typing import Any

import pytest

from splitlearn_client.answer import Alternative, TokenDelta, TokenLogprob
from support.chat_scene import ANSWER, IDLE, Scene, needs_chromium
from support.chromium import Page

pytestmark = needs_chromium

DOCUMENT = r"""# Plan

Some *words*, `code` and [a link](https://example.com/a "there"), see [more].

1. one
   - inner
2. two

| part | time |
|:--|--:|
| trunk | 1.5 |

```python
x = "<b>" * 2
```

> quoted

- [x] done

$$
a_1 + b_2^*c^*
$$

It costs $5 or $6, and $x_1 * y_1$ is \(a_i\).

[more]: https://example.com/more
"""


async def answered(scene: Scene, *pieces: str | TokenDelta) -> Page:
    """The page with the answer of these pieces."""
    await scene.page.ask("tell me")
    scene.script.feed(*pieces, None)
    await scene.page.until(f"document.querySelector('.turn > .tools button') && {IDLE}")
    return scene.page


async def press_tool(page: Page, label: str) -> None:
    buttons = "[...document.querySelectorAll('.turn:last-child > .tools button')]"
    await page.value(f"{buttons}.find((each) => each.textContent === {label!r}).click()")


async def all_of(page: Page, selector: str, what: str = "textContent") -> Any:
    return await page.value(f"[...document.querySelectorAll({selector!r})].map((each) => each.{what})")


async def test_markdown_becomes_headings_lists_tables_and_code(open_page: Scene) -> None:
    page = await answered(open_page, DOCUMENT)
    assert await all_of(page, ".answer h1") == ["Plan"]
    assert await all_of(page, ".answer ol > li > ul > li") == ["inner"]
    assert await all_of(page, ".answer td", "align") == ["left", "right"]
    assert await all_of(page, ".answer pre > code") == ['x = "<b>" * 2\n']
    assert await all_of(page, ".answer blockquote p") == ["quoted"]
    assert await all_of(page, ".answer input", "type") == ["checkbox"]
    assert await all_of(page, ".answer input", "checked") == await all_of(page, ".answer input", "disabled") == [True]
    assert await all_of(page, ".answer a", "href") == ["https://example.com/a", "https://example.com/more"]
    # the page that is opened learns nothing of this one
    assert set(await all_of(page, ".answer a", "rel")) == {"noopener noreferrer"}
    assert page.complaints == []


async def test_math_stays_as_it_is_written_and_money_is_no_math(open_page: Scene) -> None:
    page = await answered(open_page, DOCUMENT)
    assert await all_of(page, ".answer .math") == ["a_1 + b_2^*c^*", "$x_1 * y_1$", r"\(a_i\)"]
    assert "It costs $5 or $6, and" in await page.value(ANSWER)


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_that_came_in_pieces_looks_like_one_that_came_whole(open_page: Scene, seed: int) -> None:
    # with definitions at its end every block is made anew
    document = DOCUMENT if seed == 0 else DOCUMENT.partition("[more]:")[0]
    page = await answered(open_page, document)
    whole = await page.value("document.querySelector('.turn:last-child .answer').innerHTML")
    chance, pieces, rest = random.Random(seed), list[str](), document
    while rest:
        size = chance.randint(1, 12)
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    await page.ask("again")
    for number, piece in enumerate(pieces):
        open_page.script.feed(piece)
        if number % 20 == 0:
            # the page has rendered what it has so far
            await page.value("new Promise((done) => setTimeout(done, 60))")
    open_page.script.feed(None)
    await page.until(f"document.querySelector('.turn:last-child > .tools button') && {IDLE}")
    assert await page.value("document.querySelector('.turn:last-child .answer').innerHTML") == whole


HOSTILE = [
    '<img src=x onerror="window.hit = 1">',
    "<script>window.hit = 1</script>",
    "<svg onload='window.hit = 1'><a xlink:href='javascript:window.hit=1'><text>x</text></a></svg>",
    "<iframe srcdoc=\"<script>parent.hit = 1</script>\"></iframe>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
    "<form action='https://elsewhere.example'><button>send</button></form><base href='https://elsewhere.example'>",
    "<style>* { background: url(https://elsewhere.example/x) }</style><link rel=stylesheet href=https://elsewhere.example>",
    "[a link](javascript:window.hit=1) [another](JaVaScRiPt:window.hit=1) [d](data:text/html,<script>hit=1</script>)",
    "[a link](&#106;avascript:window.hit=1) <javascript:window.hit=1> [x](vbscript:x)",
    "![picture](https://elsewhere.example/?secret) ![p](x\" onerror=\"window.hit=1)",
    "[x]: javascript:window.hit=1\n\n[x] ![y][x]",
    "```html\" onmouseover=\"window.hit=1\n<img src=x onerror=window.hit=1>\n```",
    "$<img src=x onerror=window.hit=1>$ $$\n<script>window.hit=1</script>\n$$",
    "| <img src=x onerror=window.hit=1> |\n|--|\n| <b onclick=window.hit=1>x</b> |",
    "<details ontoggle=window.hit=1 open><summary>x</summary></details>",
]  # fmt: skip


# what Markdown makes, and the buttons of the page
SHOWN = {"div", "p", "a", "pre", "code", "span", "table", "thead", "tbody", "tr", "th", "td", "button", "strong", "em"}


@pytest.mark.parametrize("attack", HOSTILE)
async def test_a_hostile_answer_does_nothing(open_page: Scene, attack: str) -> None:
    await open_page.page.do("Network.enable")
    page = await answered(open_page, attack)
    tags = {tag.lower() for tag in await all_of(page, ".answer *", "tagName")}
    assert tags <= SHOWN
    names = await page.value(
        "[...new Set([...document.querySelectorAll('.answer *')].flatMap((each) => each.getAttributeNames()))]"
    )
    assert not [name for name in names if name.startswith("on") or name in ("style", "src", "srcdoc", "action")]
    for link in await all_of(page, ".answer a", "href"):
        assert link == "" or link.startswith("https://elsewhere.example/")
    for selector in (".answer a", ".answer b", ".answer p", ".answer code"):
        await page.value(f"document.querySelectorAll({selector!r}).forEach((each) => each.dispatchEvent("
                         "new MouseEvent('mouseover', {bubbles: true})))")  # fmt: skip
    assert await page.value("window.hit") is None
    # the policy of the page had nothing to stop
    assert page.complaints == []


@pytest.mark.parametrize("attack", ["<kbd> <input type='password'/ x>", '<code> <span class="unseen"/ x>hidden</span>'])
async def test_html_between_tags_is_text_too(open_page: Scene, attack: str) -> None:
    page = await answered(open_page, attack)
    assert await page.value(ANSWER) == attack
    assert {tag.lower() for tag in await all_of(page, ".answer *", "tagName")} == {"div", "p"}


@pytest.mark.parametrize("nested", [">" * 5000, "- " * 5000, "*" * 5000, "[" * 20_000, "$" * 50_000, "\\(" * 20_000])
async def test_an_answer_that_cannot_be_formatted_is_shown_as_it_is(open_page: Scene, nested: str) -> None:
    page = await answered(open_page, nested + "x")
    assert (await page.value("document.querySelector('.answer').textContent")).strip().endswith("x")
    await page.ask("and on")
    open_page.script.feed("still here", None)
    await page.until(f"{IDLE} && {ANSWER} === 'still here'")


async def test_html_that_got_past_all_of_that_would_not_run_either(open_page: Scene) -> None:
    page = open_page.page
    taken = "(() => {{ try {{ {0}; return 'taken' }} catch (error) {{ return error.name }} }})()"
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.createElement('script').src = '/page/main.js'",
        "document.body.setAttribute('onclick', 'window.hit = 1')",
    ):
        assert await page.value(taken.format(attempt)) == "TypeError"
    await page.value("document.body.setAttribute('style', 'color: red')")
    await page.value("""new Promise((done) => {
        const image = document.createElement('img');
        image.addEventListener('error', done);
        image.src = 'http://127.0.0.1:9/x.png';
        document.body.append(image);
    })""")
    assert await page.value("window.hit") is None
    told = " ".join(page.complaints)
    assert all(rule in told for rule in ("img-src", "style-src", "TrustedScript"))


async def test_the_code_of_an_answer_is_copied(open_page: Scene) -> None:
    page = await answered(open_page, DOCUMENT)
    await page.value("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    await page.click(".code-line button")
    await page.until("document.querySelector('.code-line button').textContent === 'Copied'")
    assert await page.value("window.copied") == 'x = "<b>" * 2\n'
    await press_tool(page, "Copy")
    await page.until("document.querySelector('.turn > .tools button').textContent === 'Copied'")
    assert await page.value("window.copied") == DOCUMENT


async def test_the_picture_says_where_the_time_went_and_what_crossed_the_wire(open_page: Scene) -> None:
    page = await answered(open_page, "a", "b", "c")
    assert await page.value("document.querySelector('.picture')") is None
    await press_tool(page, "Where the time went")
    assert await all_of(page, ".picture .path li", "innerText") == [
        "bottom\n30 ms", "48.2 kB", "trunk\n200 ms", "61.0 kB", "top\n60 ms",
    ]  # fmt: skip
    legend = await all_of(page, ".legend li", "innerText")
    names = [each.split("\n")[0] for each in legend]
    assert names == ["bottom", "wire", "queue", "trunk", "top", "sampling", "other"]
    shares = [float(share) for share in await all_of(page, ".bar .part", "style.flexGrow")]
    assert math.isclose(sum(shares), 1, abs_tol=1e-3)
    assert math.isclose(shares[names.index("trunk")] / shares[names.index("bottom")], 0.2 / 0.03, rel_tol=1e-3)
    caption = await page.text(".picture figcaption")
    assert "48.2 kB of hidden states went to the trunk and 61.0 kB came back; no text, no token ids." in caption
    await press_tool(page, "Where the time went")
    assert await page.value("document.querySelector('.picture')") is None


def likely(text: str, p: float, **others: float) -> TokenDelta:
    """A token with its probability, and those of others."""
    logprobs = {text: p, **others}
    listed = tuple(
        Alternative(number, each, each.encode(), math.log(value))
        for number, (each, value) in enumerate(logprobs.items())
    )
    return TokenDelta(text, (TokenLogprob(0, text, text.encode(), math.log(p), 0, listed),))


async def test_each_token_is_shown_with_its_probability_and_its_rivals(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('probabilities').click()")
    await answered(open_page, likely("Yes", 0.9, No=0.06), likely(" sir", 0.25, **{",": 0.5, "\n": 0.01}))
    assert open_page.script.asked[0].sampling.top_logprobs == 5
    await press_tool(page, "Probabilities")
    assert await all_of(page, ".token") == ["Yes", " sir"]
    doubts = "[...document.querySelectorAll('.token')].map((each) => each.style.getPropertyValue('--doubt'))"
    assert await page.value(doubts) == ["10%", "75%"]
    assert await page.text(".rivals p") == "Yes was 90.0 % likely."
    await page.value("document.querySelector('.tokens').focus()")
    await page.press("ArrowRight")
    assert await page.text(".rivals p") == "␣sir was 25.0 % likely."
    assert await all_of(page, ".rivals li", "innerText") == ["␣sir\n25.0 %", ",\n50.0 %", "⏎\n1.0 %"]
    await page.press("ArrowRight")
    await page.press("ArrowLeft")
    assert await page.text(".token.chosen") == "Yes"


async def test_without_asking_for_them_no_probabilities_are_computed(open_page: Scene) -> None:
    page = await answered(open_page, "Yes")
    assert open_page.script.asked[0].sampling.top_logprobs is None
    assert "Probabilities" not in await all_of(page, ".turn > .tools button")


async def test_a_plain_completion_stays_text_and_has_probabilities_too(open_page: Scene) -> None:
    page = open_page.page
    await page.value("document.getElementById('plain').click(); document.getElementById('probabilities').click()")
    await answered(open_page, likely("*not* ", 0.5), likely("# Markdown", 0.5, other=0.25))
    assert await page.value(ANSWER) == "*not* # Markdown"
    await press_tool(page, "Probabilities")
    assert await all_of(page, ".token") == ["*not* ", "# Markdown"]
    assert json.loads(open_page.prompt(0).join('""')) == "tell me"
