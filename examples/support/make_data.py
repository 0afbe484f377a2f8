"""Write the demo's data: support messages and the small JSON that a router wants for each.

    python examples/support/make_data.py

Every field follows from the text: one sentence says what is wrong (`intent`), it names where
(`product`), a second one may say how soon (`urgency`, else normal), and `team` follows from the
intent, except that an urgent bug goes to `oncall`. The rest of a message is noise on purpose.

Held-out rows are new messages, not new sentences: they recombine the same phrases. So a score on
them says that a model learned to read the fields, not that it knows English it never saw.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

TRAIN_ROWS = 600
HELDOUT_ROWS = 140
SYSTEM = "Route the message. Answer with JSON only."

ISSUES: dict[str, list[str]] = {
    "refund": [
        "I would like my money back for {p}.",
        "Please refund my last payment for {p}.",
        "I was charged twice for {p} and want one of them returned.",
        "We paid for {p} by mistake, can you send the money back?",
        "Can I get a refund for {p}? It is not what I expected.",
        "I am not happy with {p} and ask for a full refund.",
    ],
    "cancel": [
        "Please cancel my subscription to {p}.",
        "I want to stop paying for {p} from next month.",
        "How do I end my plan for {p}? We are leaving.",
        "We no longer need {p}, close our plan.",
        "Do not renew {p} for us.",
        "I would like to unsubscribe from {p} for good.",
    ],
    "login": [
        "I cannot sign in to {p}.",
        "My password does not work on {p}.",
        "I am locked out of {p} after too many attempts.",
        "The reset email for {p} never arrives.",
        "I lost my phone and the second factor for {p} is gone.",
        "My account on {p} is suspended and I do not know why.",
    ],
    "bug": [
        "There is an error 500 every time I save in {p}.",
        "{p} crashes when I open a report.",
        "{p} freezes after the last update.",
        "Since yesterday {p} shows the wrong totals.",
        "The export in {p} is broken, the file is empty.",
        "{p} is extremely slow and then times out.",
    ],
    "howto": [
        "How can I add a colleague in {p}?",
        "Where do I find the export option in {p}?",
        "Could you explain how tags work in {p}?",
        "What is the best way to import contacts into {p}?",
        "Is there a guide for setting up {p}?",
        "Which steps do I follow to change the language of {p}?",
    ],
    "invoice": [
        "Please send me the invoice for {p}.",
        "Our company address on the bill for {p} is wrong.",
        "I need a receipt for {p} with our tax number.",
        "The invoice for {p} does not show the purchase order.",
        "We did not receive the March invoice for {p}.",
        "Can we pay for {p} by bank transfer on a yearly bill?",
    ],
}
PRODUCTS: dict[str, list[str]] = {
    "mobile": ["the mobile app", "your iPhone app", "the Android app", "the app on my phone"],
    "web": ["the website", "the web dashboard", "the browser version", "the page in Chrome"],
    "desktop": ["the desktop client", "the Windows program", "the Mac version", "your Linux client"],
    "api": ["the API", "the webhook service", "the Python SDK", "the GraphQL endpoint"],
}
URGENCIES: dict[str, list[str]] = {
    "high": [
        "This is urgent.",
        "We need this fixed today.",
        "Our whole team is blocked.",
        "We are losing customers every hour.",
        "I need an answer right now.",
    ],
    "normal": [
        "",
        "",
        "",
        "Please look at it this week.",
        "A reply in the next few days would be good.",
    ],
    "low": [
        "There is no rush.",
        "Take your time.",
        "Whenever you have a free moment.",
        "It is not important, just a note.",
        "This has low priority for us.",
    ],
}
TEAMS = {
    "refund": "billing",
    "invoice": "billing",
    "cancel": "success",
    "login": "accounts",
    "bug": "engineering",
    "howto": "support",
}
GREETINGS = ["", "", "Hi,", "Hello,", "Hello team,", "Good morning,", "Hi there,", "Dear support,"]
BACKGROUNDS = [
    "", "", "",
    "My customer number is {n}.",
    "We are a team of {n} people.",
    "We have been with you since 20{y}.",
    "I already wrote to you on Tuesday.",
    "My name is {who}.",
    "I work at a school.",
    "A colleague told me to write here.",
    "We use the premium plan.",
]  # fmt: skip
CLOSINGS = ["", "", "Thanks!", "Thank you, {who}", "Best, {who}", "Kind regards, {who}", "Cheers"]
PEOPLE = ["Anna", "Ben", "Chen", "Dora", "Emil", "Fatima", "George", "Hana", "Ivan", "Julia"]


def answer(intent: str, product: str, urgency: str) -> dict[str, str]:
    """The four fields, in the order in which they are written."""
    urgent_bug = intent == "bug" and urgency == "high"
    team = "oncall" if urgent_bug else TEAMS[intent]
    return {"intent": intent, "product": product, "urgency": urgency, "team": team}


def message(rng: random.Random, intent: str, product: str, urgency: str) -> str:
    """One message of one to five sentences that carries exactly these three labels."""
    issue = rng.choice(ISSUES[intent]).replace("{p}", rng.choice(PRODUCTS[product]))
    core = [issue[0].upper() + issue[1:], rng.choice(URGENCIES[urgency])]
    background = rng.choice(BACKGROUNDS)
    if rng.random() < 0.3:
        core.reverse()
    if rng.random() < 0.7:
        core.insert(0, background)
    else:
        core.append(background)
    parts = [rng.choice(GREETINGS), *core, rng.choice(CLOSINGS)]
    text = " ".join(part for part in parts if part)
    text = text.replace("{n}", str(rng.randint(3, 99))).replace("{y}", str(rng.randint(10, 25)))
    return text.replace("{who}", rng.choice(PEOPLE))


def rows(seed: int) -> Iterator[dict[str, object]]:
    """Endless rows, each with a message that no earlier row has; labels are drawn evenly."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        intent, product = rng.choice(list(ISSUES)), rng.choice(list(PRODUCTS))
        urgency = rng.choice(list(URGENCIES))
        text = message(rng, intent, product, urgency)
        if text in seen:
            continue
        seen.add(text)
        fields = json.dumps(answer(intent, product, urgency), separators=(",", ":"))
        turns = (("system", SYSTEM), ("user", text), ("assistant", fields))
        yield {"messages": [{"role": role, "content": content} for role, content in turns]}


def write(path: Path, source: Iterator[dict[str, object]], count: int) -> None:
    """Write the next `count` rows, one JSON object a line."""
    lines = [json.dumps(next(source), ensure_ascii=False) + "\n" for _ in range(count)]
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write both files beside this script, or into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    source = rows(options.seed)
    write(options.out / "train.jsonl", source, TRAIN_ROWS)
    write(options.out / "heldout.jsonl", source, HELDOUT_ROWS)


if __name__ == "__main__":
    main()
