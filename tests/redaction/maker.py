"""Makes up values for the texts of the corpus."""

from __future__ import annotations

import random
import string

ALNUM = string.ascii_letters + string.digits
URL64 = ALNUM + "-_"
HEX = "0123456789abcdef"


class Maker:
    """Makes up values. One generator of random numbers, so that the corpus is the same everywhere."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def some(self, length: int, signs: str = ALNUM) -> str:
        value = "".join(self.rng.choices(signs, k=length))
        if length > 5 and not signs.isdigit() and not signs.isalpha() and (value.isalpha() or value.isdigit()):
            return self.some(length, signs)  # a key without a digit, or without a letter, is none
        return value

    def digits(self, length: int) -> str:
        return self.some(length, string.digits)

    def password(self) -> str:
        rng = self.rng
        return rng.choice(
            [
                lambda: self.some(rng.randint(8, 12)) + rng.choice("!#%&@*^+=~?$"),
                lambda: (
                    rng.choice(["Summer", "Winter", "Dragon", "Falcon", "Tiger", "hello", "qwerty"])
                    + self.digits(rng.randint(2, 4))
                    + rng.choice(["!", "", "#", "@"])
                ),
                lambda: self.some(rng.randint(16, 24)),
                lambda: "-".join(self.some(6) for _ in range(3)),
                lambda: self.some(5) + rng.choice("@!#") + self.some(5),
            ]
        )()

    def uuid(self) -> str:
        return "-".join(self.some(n, HEX) for n in (8, 4, 4, 4, 12))
