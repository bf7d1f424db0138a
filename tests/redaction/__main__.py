"""`make redaction`: recall and precision on a corpus of our own, beside other tools, and the time it takes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Callable

from llmctx.delivery.redact import Redactor
from tests.redaction.innocent_texts import innocent
from tests.redaction.secret_texts import secrets

Finds = Callable[[str, str], bool]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misses", type=int, default=0, help="how many of each kind to show")
    args = parser.parse_args()
    guilty, clean = list(secrets(args.seed)), list(innocent(args.seed + 1))
    redact = Redactor().redact
    missed: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for kind, text, secret in guilty:
        shown = redact(text)
        if secret in shown or shown == text:
            missed[kind] += 1
            if missed[kind] <= args.misses:
                print("missed", kind, repr(text)[:200], "->", repr(shown)[:200])
    for kind, text in clean:
        if (shown := redact(text)) != text:
            hit[kind] += 1
            if hit[kind] <= args.misses:
                print("hit", kind, repr(text)[:200], "->", repr(shown)[:200])
    total = Counter(kind for kind, _, _ in guilty)
    for kind, count in missed.most_common():
        print(f"  missed {count} of {total[kind]}  {kind}")
    for kind, count in hit.most_common():
        print(f"  hit {count}  {kind}")
    found, wrong = len(guilty) - missed.total(), hit.total()
    print(f"llmctx: recall {found / len(guilty):.4f} of {len(guilty)}, precision {found / (found + wrong):.4f} with {len(clean)} innocent texts")


if __name__ == "__main__":
    sys.exit(main())
