"""Columns of a host's own types, read as ours: flags that are numbers or words, figures that are text, texts as JSON.

A table that is adopted keeps its types, so the same question meets `success` as a boolean, as a smallint and as `'Y'`.
A value that cannot be read is NULL: one odd row must not make the others unreadable.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from llmctx.core.columns import ColumnKind

_TRUE: Final = ("true", "t", "yes", "y", "on", "1", "ok", "success")
_FALSE: Final = ("false", "f", "no", "n", "off", "0", "error", "failed", "failure")
_NUMBERS: Final = (sa.Integer, sa.Numeric, sa.Float)
_IDS: Final = (sa.String, sa.Integer, sa.Numeric, sa.Uuid)
_MOST: Final = 10**15
"""No figure of a call is larger. NaN, infinity and larger ones would make a sum useless, or fail the whole question."""
_FIGURE: Final = r"^[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?$"


def is_text(column: sa.ColumnElement[Any]) -> bool:
    """Return whether the column is text, and no enumerated type."""
    return isinstance(_plain_type(column), (sa.String, sa.Text)) and not isinstance(column.type, sa.Enum)


def as_text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """Return a column of any type as text."""
    return column if is_text(column) else sa.cast(column, sa.Text)


def as_id(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return `column` so that an id is compared with it: as text where it is no number, text or UUID."""
    return column if isinstance(_plain_type(column), _IDS) else as_text(column)


def as_kind(column: sa.ColumnElement[Any], kind: ColumnKind) -> sa.ColumnElement[Any]:
    """Return `column` as a query expects a column of this kind; unchanged where its type serves."""
    if kind is ColumnKind.ID:
        return as_id(column)
    if kind is ColumnKind.FLAG:
        return _as_flag(column)
    if kind is ColumnKind.COUNT:
        return column if isinstance(_plain_type(column), sa.Integer) else sa.cast(_as_summand(column), sa.BigInteger)
    if kind is ColumnKind.MONEY:
        return _as_summand(column)
    if kind is ColumnKind.NUMBER:
        return _as_figure(column)
    return as_text(column) if kind in (ColumnKind.TEXT, ColumnKind.SNAPSHOT) else column


def _as_flag(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    if isinstance(_plain_type(column), sa.Boolean):
        return column
    if isinstance(_plain_type(column), _NUMBERS):
        return column != 0
    word = sa.func.lower(sa.func.trim(as_text(column)))
    return sa.case((word.in_(_TRUE), sa.true()), (word.in_(_FALSE), sa.false()), else_=sa.null())


def _as_figure(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    if isinstance(_plain_type(column), _NUMBERS):
        return column
    text = as_text(column)
    return sa.cast(sa.case((text.regexp_match(_FIGURE), text), else_=sa.null()), sa.Numeric)


def _as_summand(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a figure that can be added up: whole numbers and money of ours are."""
    if isinstance(column.type, (TypeDecorator, sa.Integer)):
        return column
    figure = _as_figure(column)
    most: sa.ColumnElement[int] = sa.literal_column(str(_MOST))
    return sa.case((figure.between(-most, most), figure), else_=sa.null())


def _plain_type(column: sa.ColumnElement[Any]) -> TypeEngine[Any]:
    """Return the type that the database knows, of one of ours such as `Money` as well."""
    return column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
