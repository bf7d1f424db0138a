"""The way back from an adoption: what bears llmctx's mark is taken away, and nothing else. For llmctx_0001 alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.util import load_python_file

_adopt = load_python_file(Path(__file__).parent, "adopt_0001.py")
quote = _adopt.quote


def full(bind: sa.Connection, found: Any) -> set[str]:
    """Columns that may be NULL since the adoption, and are in some row."""
    asked = [name for name in found.facts["nullable"] if name in found.columns]
    exists = "SELECT EXISTS (SELECT FROM {} WHERE {} IS NULL)"
    return {name for name in asked if bind.scalar(sa.text(exists.format(found.sql, quote(name))))}


def way_back(found: Any, full: set[str]) -> Any:
    """Take away what was added. `full`: columns that may be NULL since then, and are somewhere."""
    if found.kind not in ("r", "p"):
        return _adopt.Plan([], [], [])
    if any(part.endswith((f"{found.name}_before", f'{found.name}_before"')) for part in found.partitions):
        return _adopt.Plan([], [], ["its partitions come first: `llmctx migrate --partition --downgrade --yes`"])
    alter = f"ALTER TABLE {found.sql} "
    steps, notes = [], []
    for key in found.added:
        how = " CONCURRENTLY" if found.kind == "r" else ""
        statement = f"DROP INDEX{how} IF EXISTS {_adopt.beside(found, key.name)}"
        lock = "none" if how else "a moment"
        steps.append(_adopt.Step(f"drop index {key.name}", (statement,), lock, concurrently=bool(how)))
    facts = found.facts
    there = found.columns
    for name in facts["defaults"]:
        if name not in there or there[name].required:
            continue  # taken away before a break
        drop = f"DROP SEQUENCE IF EXISTS {_adopt.sequence(found, name)}"
        steps.append(
            _adopt.Step(
                f"{name} has no default any more", (f"{alter}ALTER COLUMN {quote(name)} DROP DEFAULT", drop), "a moment"
            )
        )
    for name in facts["nullable"]:
        if name not in there or there[name].not_null:
            continue
        if name in full:
            notes.append(f"{name} is NULL in some rows, so it may stay so")
            continue
        check = quote(f"llmctx_{found.name}_{name}")[:63]
        add = f"DROP CONSTRAINT IF EXISTS {check}, ADD CONSTRAINT {check} CHECK ({quote(name)} IS NOT NULL) NOT VALID"
        last = f"ALTER COLUMN {quote(name)} SET NOT NULL, DROP CONSTRAINT {check}"
        steps.append(_adopt.Step(f"{name} has to have a value from now on", (alter + add,), "a moment"))
        steps.append(_adopt.Step("see that it has one everywhere", (f"{alter}VALIDATE CONSTRAINT {check}",), "none"))
        steps.append(_adopt.Step(f"{name} is NOT NULL again", (alter + last,), "a moment"))
    marked = [column.name for column in found.marked]
    if users := {what for name in marked for what in found.uses.get(name, ())}:
        problem = f"{' and '.join(sorted(users))} use what llmctx has added: drop them, make them again later"
        return _adopt.Plan([], [], [problem])
    if marked:
        columns = ", ".join(f"DROP COLUMN {quote(name)}" for name in marked)
        steps.append(
            _adopt.Step(
                f"drop {len(marked)} columns with what is in them: {', '.join(marked)}", (alter + columns,), "a moment"
            )
        )
    if steps and not found.mine:
        return _adopt.Plan(
            steps, notes, [f"table {found.sql} belongs to the role {found.owner}: {found.me} may not change it"]
        )
    return _adopt.Plan(steps, notes, [])
