"""The field's words, or plain English: what readers had to translate is not in the source (list: REDESIGN, section 6).

`python tests/test_words.py [FOLDER ...]` lists every place.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "reverie"

#: what is not to be found (a regular expression, any case) -> what to write
WORDS = {
    r"no numbers?\b(?! of)": "non-finite (NaN or infinity)",
    r"autops(?:y|ies)": "NaN report",
    r"look_at_\w+|\blooks\b": "check_*, reads, checks",
    r"\btold\b|\btells?\b|\btelling\b": "reported, message, says, reports",
    r"\bgoes on\b|\bgo on\b|\bgoing on\b|\bwent on\b": "continues, resumes",
    r"\banew\b": "again, recreated",
    r"\btwins?\b": "copy, counterpart",
    r"\bfilms?\b|\bfilmed\b": "video, record",
    r"\bpictures?\b": "image, plot, figure",
    r"\bby chance\b|\bof chance\b": "random, randomness",
    r"\bheaps?\b": "pooled runs",
    r"\bin a row\b": "consecutive",
    r"\bgrey": "gray",
    r"\bthe places? of\b|\bby the places?\b|\bindex\.place\b": "index, position",
    r"\bverbs?\b": "command",
    r"\bthe sums\b|\bquick(?:er)? sums\b|\bsums are made\b": "computation",
    r"\bwhoever\b|\bnobody\b|\bsomebody\b|\beverybody\b": "a noun: the user, another process",
    r"\bof one's own\b|\bone's own\b": "your own, the user's",
    r"\bmisses\b(?= [\d{])": "is off by",
    r"\beyes\b|\bawake\b": "observations",
    r"\beveryone in turn\b|\bmends?\b|\bmended\b": "each in turn; fix",
    r"(?-i:FACTS)(?:\.md)?\b|\bshared (?:ENVIRONMENTS|LIBRARIES|RECORD|PEERS)": "docs/implementation-details.md#anchor",
}
#: (file, text of the line) that may stay, each for a reason.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "api.py": ("film",),  # the keyword of `Dreamer.evaluate`
    "commands/drift.py": ('"picture"',),  # a key of its JSON output
    "commands/eval.py": ("film=True",),  # an argument of Dreamer.evaluate
    "envs/check/play.py": ('"no-film"',),  # the code of a finding, which JSON readers know
    "envs/families/minigrid.py": ('"grey"',),  # a word of MiniGrid's missions
    "web/tail.py": (".tell()",),  # the method of a file
    "evidence/tune.py": ("study.tell(",),  # a method of Optuna's
    "insight/rules.py": ('"too early to tell"',),  # a verdict, which JSON readers know
}
TEXT = {".py", ".yaml", ".html", ".js"}


def places(folder: Path = SOURCE) -> list[str]:
    """Every place that breaks the list: "run/loop.py:12: told (reported, ...): the line"."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in TEXT or path.name.startswith("uplot"):
            continue
        where = path.relative_to(SOURCE).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(text in line for text in EXCEPTIONS.get(where, ())):
                continue
            for pattern, instead in WORDS.items():
                hit = re.search(pattern, line, re.I)
                if hit:
                    found.append(f"{where}:{number}: '{hit[0]}' (write: {instead}): {line.strip()[:90]}")
    return found


def test_the_source_uses_the_words_of_the_field():
    found = places()
    assert found == [], f"{len(found)} places, e.g.\n" + "\n".join(found[:20])


if __name__ == "__main__":
    print("\n".join(line for folder in sys.argv[1:] or [SOURCE] for line in places(Path(folder).resolve())))
