"""A string that stands alone is a docstring; else it is the end of a sentence, cut off by a break of the line."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_no_sentence_is_cut_off() -> None:
    lost = []
    for file in sorted((ROOT / "llmctx").rglob("*.py")):
        lines = file.read_bytes().splitlines()
        for node in ast.walk(ast.parse(b"\n".join(lines))):
            if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                text = lines[node.lineno - 1][node.col_offset :].decode()
                if text != "..." and not text.lstrip("r").startswith('"""'):
                    lost.append(f"{file.relative_to(ROOT)}:{node.lineno}: {text}")
    assert lost == []
