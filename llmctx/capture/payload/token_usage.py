"""Token figures as the provider meant them.

LangChain's `usage_metadata` is right nearly always. Where it is not, it errs in three ways, each of which can be
seen: a figure that the provider never sent becomes 0, the running totals that some services repeat on every chunk
are added up to a multiple, and details of some makers are dropped though the provider's own object is still there.
A figure that is not certain is NULL; none is ever invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from llmctx.capture.payload import providers
from llmctx.core.record import AUDIO_IN, AUDIO_OUT

INT_MAX: Final = 2**31 - 1
_PLAIN: Final = frozenset(providers.PLAIN)


class Usage(NamedTuple):
    """Tokens of one call; None is unknown. `cached` are read from the provider's cache, `cache_written` put there, of
    them `cache_written_1h` for an hour; these and `audio_in` are part of `prompt`, `reasoning` and `audio_out` of
    `completion`.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    cache_written: int | None = None
    cache_written_1h: int | None = None
    audio_in: int | None = None
    audio_out: int | None = None


UNKNOWN: Final = Usage()
_DETAILS: Final = ("cached", "reasoning", "cache_written", "cache_written_1h", "audio_in", "audio_out")


class Stream:
    """The usage that the chunks of one stream report. Fed once per token, so it does next to nothing."""

    __slots__ = ("_falling", "_prompt", "_prompts", "_reasoning", "_varied", "chunks", "events", "last")

    def __init__(self) -> None:
        self.chunks: list[Any] | None = None
        """Where LangChain collects the chunks, all of them: then none is fed (`read_chunks`)."""
        self.events: list[Any] = []
        """Those of a stream of events, of which LangChain tells nothing when it breaks."""
        self._begin()

    def _begin(self) -> None:
        self.last: Mapping[str, Any] | None = None  # the latest usage that says anything
        self._prompt = 0  # input tokens of the first chunk that had some
        self._prompts = 0  # chunks that had some
        self._reasoning = 0
        self._varied = False
        self._falling = False

    def feed(self, chunk: Any) -> None:
        """Look at the `chunk` of an `on_llm_new_token`. Never raises."""
        try:
            # not `chunk.message`: asked for a field that it lacks, pydantic takes ten times as long as all of this
            usage = chunk.__dict__["message"].__dict__["usage_metadata"]
        except (AttributeError, KeyError):  # a completion model's, no chunk at all, or something with slots
            return
        if usage:
            self._note(usage)

    def read_chunks(self) -> None:
        """Look at all chunks that were collected, and let go of them; do nothing if they were fed. Never raises."""
        chunks, self.chunks = self.chunks, None
        self.events.clear()
        if chunks is None:
            return
        self._begin()  # those before the first content were fed
        for chunk in chunks:
            self.feed(chunk)

    def _note(self, usage: Mapping[str, Any]) -> None:
        try:
            prompt, completion = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
            if prompt:
                if self._prompts and prompt != self._prompt:
                    self._varied = True
                self._prompts += 1
                self._prompt = self._prompt or prompt
            elif not completion:
                return
            if self.last is not None and completion < (self.last.get("output_tokens") or 0):
                self._falling = True
            self.last = usage
            if details := usage.get("output_token_details"):
                self._reasoning += details.get("reasoning") or 0
        except Exception:  # noqa: BLE001  a custom model's usage may be anything; then the sum has to do
            self._varied = True

    def correct(self, summed: Usage, provider: str) -> Usage:
        """Return the true figures, where `summed` is what LangChain made of the chunks by adding them up."""
        self.read_chunks()
        if provider.startswith(providers.SUMS):
            # `stream_events(version="v3")` adds up the figures, but keeps the details of one chunk
            lost = summed.reasoning is not None and self._reasoning > summed.reasoning
            return summed._replace(reasoning=self._reasoning) if lost else summed
        if self.last is None:
            return summed
        if self._prompts < 2:  # LangChain's contract: each chunk brings what is new
            return self._with_running_total(summed, from_metadata(self.last))
        if self._varied:
            return UNKNOWN
        # The same prompt is counted on every chunk: running totals, of which the last one holds.
        last = from_metadata(self.last)
        return last._replace(completion=None, total=None) if self._falling else last

    def _with_running_total(self, summed: Usage, last: Usage) -> Usage:
        """Return `summed`, or the `last` figures if they are totals of which only the first had the prompt.

        Then the last total has it in it, and those of all chunks make no sum.
        """
        if _adds_up(summed) or last.completion is None or last.total != self._prompt + last.completion:
            return summed
        return last._replace(prompt=self._prompt)


def from_metadata(usage: Any) -> Usage:
    """Read the `usage_metadata` of a message."""
    if not isinstance(usage, dict):
        return UNKNOWN
    inputs, outputs = usage.get("input_token_details"), usage.get("output_token_details")
    return Usage(
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
        _count(usage.get("total_tokens")),
        _detail(inputs, "cache_read") if inputs else None,
        _detail(outputs, "reasoning") if outputs else None,
        _written(inputs) if inputs else None,
        _first(inputs, "ephemeral_1h_input_tokens") if inputs else None,
        _first(inputs, "audio") if inputs else None,
        _first(outputs, "audio") if outputs else None,
    )


def from_provider(raw: Any) -> Usage:
    """Read the provider's own usage object."""
    if not isinstance(raw, dict):
        return UNKNOWN
    if _PLAIN.issuperset(raw):  # most services have nothing else, and there are many names to look for
        return Usage(*map(_count, map(raw.get, providers.PLAIN)))
    inputs, outputs = _details(raw, providers.INPUT_DETAILS), _details(raw, providers.OUTPUT_DETAILS)
    prompt, completion = _first(raw, *providers.PROMPT), _first(raw, *providers.COMPLETION)
    thoughts, tools = _first(raw, *providers.THOUGHTS_BESIDE), _first(raw, *providers.TOOLS_BESIDE)
    read, written = _first(raw, *providers.READ_BESIDE), _first(raw, *providers.WRITTEN_BESIDE)
    if prompt is not None:
        prompt += tools or 0
        if prompt == _first(raw, *providers.BESIDE_PROMPT) and "prompt_tokens" not in raw:
            prompt += (read or 0) + (written or 0)
    if thoughts is not None:
        completion = (completion or 0) + thoughts
    cached, cache_written = _first(inputs, *providers.CACHED), _first(inputs, *providers.CACHE_WRITTEN)
    cached = _first(raw, *providers.CACHED_WHOLE) if cached is None else cached
    if cached is None:
        cached = _first(raw, *providers.CACHED) or None  # Kimi's; Together's is 0 whatever was cached
    reasoning = _first(outputs, *providers.REASONING)
    kept = next(filter(None, (place.get(name) for place in (raw, inputs) for name in providers.LIFETIMES)), None)
    return Usage(
        prompt=prompt,
        completion=completion,
        total=_first(raw, *providers.TOTAL),
        cached=_beside(cached, read, raw),
        reasoning=thoughts if reasoning is None else reasoning,
        cache_written=_beside(cache_written, written, raw),
        cache_written_1h=_first(kept, "ephemeral_1h_input_tokens"),
        audio_in=_first(inputs, *providers.AUDIO),
        audio_out=_first(outputs, *providers.AUDIO),
    )


def _details(raw: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the details of a figure; some clients hand on objects, and Gemini's are a list."""
    found: Any = next(filter(None, map(raw.get, names)), None)
    if isinstance(found, list):
        spoken = [_first(one, *providers.MODALITY) or 0 for one in found if _modality(one) == "AUDIO"]
        return {providers.AUDIO[0]: sum(spoken)} if spoken else {}
    found = found if isinstance(found, dict) else getattr(found, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _modality(entry: Any) -> Any:
    return entry.get("modality") if isinstance(entry, dict) else None


def _beside(detail: int | None, beside: int | None, raw: Mapping[str, Any]) -> int | None:
    """Return a detail, or what stands beside: a gateway to Anthropic has a 0 in one of the places, or in both."""
    if "prompt_tokens" in raw:
        return detail or beside or detail
    return beside if detail is None else detail


def usage_of(metadata: Any, raw: Any, *, stream: Stream | None, provider: str) -> Usage:
    """Return what is certain about the tokens of a call.

    `metadata` is the message's `usage_metadata`, `raw` the provider's own usage object where LangChain has kept it.
    """
    own = from_provider(raw) if raw is not None else UNKNOWN
    if own.prompt == 0 and not own.completion and not own.total:  # a gateway that does not count
        own = own._replace(prompt=None, completion=None, total=None)
    if stream is not None and not _adds_up(own):  # LangChain has added up those of several chunks
        own = UNKNOWN
    usage = from_metadata(metadata)
    if stream is not None:
        usage = stream.correct(usage, provider)
    usage = _without_invented(usage, own, provider)
    if own is UNKNOWN:
        return usage
    if (usage.prompt is None and usage.completion is None) or (
        # the client has counted something twice, or not at all
        None not in (usage.total, own.total) and not _adds_up(usage) and _adds_up(own)
    ):
        usage = usage._replace(prompt=own.prompt, completion=own.completion, total=own.total)
    if usage.prompt is not None and not (usage.cached or usage.cache_written):
        beside = (own.cached or 0) + (own.cache_written or 0)
        if beside and own.prompt == usage.prompt + beside:  # the client has left out what went through the cache
            usage = usage._replace(prompt=own.prompt, total=own.total)
    better: dict[str, int] = {}
    for name in _DETAILS if own[3:] != UNKNOWN[3:] else ():
        figure, known = getattr(own, name), getattr(usage, name)
        if figure is not None and not known and figure != known:
            better[name] = figure
    usage = usage._replace(**better) if better else usage
    return _with_compaction(usage, raw["iterations"]) if raw.get("iterations") else usage


def _adds_up(usage: Usage) -> bool:
    """Return whether the figures make their total, with what is counted beside; or there are not all of them."""
    dropped = reconcile(usage)[1]
    return "total_tokens" not in dropped and "completion_tokens" not in dropped


def _with_compaction(usage: Usage, iterations: Any) -> Usage:
    """Return `usage` with what Anthropic has used to compact the conversation, which it counts beside."""
    for one in iterations if isinstance(iterations, list) else ():
        if isinstance(one, dict) and one.get("type") == "compaction":
            more = from_provider(one)
            figures = {
                name: getattr(usage, name) + (getattr(more, name) or 0)
                for name in ("prompt", "completion", "cached", "cache_written")
                if getattr(usage, name) is not None
            }
            usage = usage._replace(**figures, total=None)
    return usage


def reconcile(usage: Usage) -> tuple[Usage, dict[str, int]]:
    """Return figures that do not contradict each other, and those that were taken out for it, by their column.

    Prompt and completion make the total; no part is larger than its whole. What a provider counts beside (Vertex the
    thoughts, others what came from a cache) is added where that makes up the total, and what a client counts twice is
    taken away; what neither explains, is not known.
    """
    prompt, completion, total, cached, reasoning, written = usage[:6]
    dropped: dict[str, int] = {}
    if total == 0 and (prompt or completion):  # the client's word for one that was not sent
        total = None
    if prompt is not None and completion is not None:
        if total is None:
            total = prompt + completion
        missing = total - prompt - completion
        thoughts, kept = reasoning or 0, (cached or 0) + (written or 0)
        if missing < 0 and -missing == kept <= prompt // 2:  # counted twice
            prompt += missing
        elif missing < 0 and -missing == thoughts <= completion // 2:
            completion += missing
        elif missing < 0:
            dropped["total_tokens"], total = total, None
        elif missing > 0:
            for more_in, more_out in ((0, thoughts), (kept, 0), (kept, thoughts)):
                if more_in + more_out == missing:
                    prompt, completion = prompt + more_in, completion + more_out
                    break
            else:
                dropped["completion_tokens"], completion = completion, None
    elif total is not None and total < max(prompt or 0, completion or 0):  # the other one is no number that could be
        dropped["total_tokens"], total = total, None
    if prompt is not None and (cached or 0) + (written or 0) > prompt:
        dropped.update(_columns(cached_tokens=cached, cache_write_tokens=written))
        usage = usage._replace(cached=None, cache_written=None, cache_written_1h=None)
    if completion is not None and reasoning is not None and reasoning > completion:
        dropped["reasoning_tokens"] = reasoning
        usage = usage._replace(reasoning=None)
    for name, column, whole in (("audio_in", AUDIO_IN, prompt), ("audio_out", AUDIO_OUT, completion)):
        if whole is not None and (sound := getattr(usage, name)) is not None and sound > whole:
            dropped[column] = sound
            usage = usage._replace(**{name: None})
    if (prompt, completion, total) != usage[:3]:
        usage = usage._replace(prompt=prompt, completion=completion, total=total)
    return usage, dropped


def _columns(**figures: int | None) -> dict[str, int]:
    return {name: figure for name, figure in figures.items() if figure}


def _without_invented(usage: Usage, own: Usage, provider: str) -> Usage:
    """Drop zeros that were never sent: a 0 counts where the provider's own object says it, or where it makes sense."""
    prompt, completion, total = usage.prompt, usage.completion, usage.total
    if prompt == 0 and own.prompt != 0:  # no prompt is empty: nothing was sent, or it was lost on the way
        prompt, total = None, None if total == completion else total  # some clients reckon it from what they have
        if completion == 0:
            completion = None
    if (
        usage.cached == 0
        and not usage.cache_written
        and own.cached is None
        and provider.startswith(providers.EMPTY_ZEROS)
    ):
        usage = usage._replace(cached=None)
    if (prompt, completion, total) == usage[:3]:
        return usage
    return usage._replace(prompt=prompt, completion=completion, total=total)


def _count(value: Any) -> int | None:
    """Return a number of tokens that a column can hold."""
    if type(value) is int and 0 <= value <= INT_MAX:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= INT_MAX:
        return None
    return int(value)


def is_no_count(value: Any) -> bool:
    """Return whether `value` is a figure that no number of tokens can be."""
    return _count(value) is None


def _first(raw: Any, *names: str) -> int | None:
    if not isinstance(raw, dict):
        return None
    for name in names:
        if (value := raw.get(name)) is not None and (count := _count(value)) is not None:
            return count
    return None


def _detail(details: Any, name: str) -> int | None:
    """Return a detail, under its own name and under those of service tiers (`priority_cache_read`), put together."""
    if not isinstance(details, dict):
        return None
    suffix = "_" + name
    found = [
        count
        for key, value in details.items()
        if isinstance(key, str) and (key == name or key.endswith(suffix)) and (count := _count(value)) is not None
    ]
    return sum(found) if found else None


def _written(details: Any) -> int | None:
    """Return the tokens put into the cache; Anthropic counts them by lifetime as well, then with a 0 for the sum."""
    if not isinstance(details, dict):
        return None
    by_lifetime = sum(_count(value) or 0 for key, value in details.items() if str(key).startswith("ephemeral_"))
    return by_lifetime or _detail(details, "cache_creation")
