"""The scripts that run in Redis, each in a time that does not depend on what others have put there.

They read no text beyond a limit, take no list of keys or members that is not bounded, and replace what cannot be ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

_COMMON: Final = """
local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function field_of(line) return string.match(line, '^%d+ ([^ ]+) ') or '' end
local function user_of(field) return string.match(field, '^%-') or string.match(field, '^[^:]*') end
-- As SET, which would wait until a large value in its place is freed.
local function put(key, value, ttl)
  redis.call('UNLINK', key)
  redis.call('SET', key, value, 'PX', ttl)
end
-- The lines of a text, and whether there is something else in its place, which is removed.
local function lines_of(key, longest, most)
  local held = redis.pcall('GETRANGE', key, 0, longest)
  local lines = {}
  if type(held) == 'string' and #held <= longest then
    for line in string.gmatch(held, '[^\\n]+') do
      lines[#lines + 1] = line
      if #lines > 4 * most then break end
    end
    if #lines <= 4 * most then return lines, false end
  end
  redis.call('UNLINK', key)
  return {}, true
end
"""

# KEYS: the thread or task, the mark of the thread, and the index of the user's keys, if there is a user. ARGV: line,
# line that stands for others, milliseconds to live, most lines (0 for a task), longest text, a field to drop or "",
# whether there are others, milliseconds for the mark, how this user marks the thread: with the newest key and with
# older ones. Over the limit a line goes whose user has another one, the oldest first; or else another, which is noted.
# A mark outlives the thread: it tells whether the same user comes back, or another one uses it.
PUT: Final = (
    _COMMON
    + """
local now, line, ttl, most = clock(), ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local stamp = string.format('%.0f', now) .. ' '
local field = string.match(line, '^[^ ]+')
local held, unclear = lines_of(KEYS[1], tonumber(ARGV[5]), math.max(most, 1))
unclear = unclear or ARGV[7] == '1'
if most == 0 then
  local before = held[1] and user_of(field_of(held[1]))
  if before and before ~= '-' and before ~= user_of(field) then unclear = true end
  redis.call('SET', KEYS[1], stamp .. (unclear and ARGV[2] or line), 'PX', ttl)
else
  local kept, mark = {}, redis.pcall('GETRANGE', KEYS[2], 0, 63)
  local own = mark == '' or (type(mark) == 'string' and string.find(ARGV[9], mark, 1, true))
  if not own and #held == 0 then unclear = true end
  put(KEYS[2], own and string.match(ARGV[9], '^[^ ]+') or '*', ARGV[8])
  for _, one in ipairs(held) do
    local name = field_of(one)
    if name == '*' then
      unclear = true
    elseif name ~= field and name ~= ARGV[6] then
      kept[#kept + 1] = one
    end
  end
  while #kept >= most do
    local users, victim = {[user_of(field)] = 1}, nil
    for _, one in ipairs(kept) do
      local user = user_of(field_of(one))
      users[user] = (users[user] or 0) + 1
    end
    for at, one in ipairs(kept) do
      if users[user_of(field_of(one))] > 1 then victim = at break end
    end
    local user = user_of(field_of(kept[victim or 1]))
    if not victim or (user == '-' and users['-'] <= #kept) then unclear = true end
    table.remove(kept, victim or 1)
  end
  if unclear then table.insert(kept, 1, stamp .. ARGV[2]) end
  kept[#kept + 1] = stamp .. line
  redis.call('SET', KEYS[1], table.concat(kept, '\\n'), 'PX', ttl)
end
if KEYS[3] then
  local count = redis.pcall('ZCOUNT', KEYS[3], '-inf', string.format('%.0f', now))
  if type(count) == 'table' then
    redis.call('UNLINK', KEYS[3])
  elseif count > 0 then
    redis.call('ZREMRANGEBYRANK', KEYS[3], 0, math.min(count, 16) - 1)
  end
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + ttl), KEYS[1])
  if redis.call('PTTL', KEYS[3]) < ttl then redis.call('PEXPIRE', KEYS[3], ttl) end
end
return 1
"""
)

# KEYS: the process's own key, the gap, the evictions that have been seen. ARGV: what should stand in the process's key
# or "", what is to stand there, milliseconds for it and for a gap, whether this process still tells what was lost, and
# the milliseconds of the longest gap.
# Answers the server's time in milliseconds, whether what this process has told may be lost, how many keys Redis has
# evicted, and whether there is a gap: some process may not have told again what was lost.
BEAT: Final = (
    _COMMON
    + """
local lost, gap = 0, ARGV[5] == '1'
local held = redis.pcall('GETRANGE', KEYS[1], 0, 63)
if ARGV[1] ~= '' and held ~= ARGV[1] and held ~= ARGV[2] then lost, gap = 1, true end
put(KEYS[1], ARGV[2], ARGV[3])
local info = redis.pcall('INFO', 'stats')
local evicted = type(info) == 'string' and string.match(info, 'evicted_keys:(%d+)') or '0'
local seen = redis.pcall('GETRANGE', KEYS[3], 0, 31)
if seen ~= evicted and not (seen == '' and evicted == '0') then
  put(KEYS[3], evicted, 86400000)
  if tonumber(evicted) > (type(seen) == 'string' and tonumber(seen) or 0) then gap = true end
end
local left, longest = redis.call('PTTL', KEYS[2]), tonumber(ARGV[6])
if left > longest then left = -1 end
if gap and left < tonumber(ARGV[4]) then
  put(KEYS[2], '1', ARGV[4])
  left = 1
end
return {string.format('%.0f', clock()), lost, evicted, left > 0 and 1 or 0}
"""
)

# KEYS: the index of a user's keys. ARGV: the length of a name of ours. Answers how many names it has looked at, and
# those among them that may be ours; the others are removed.
LIST: Final = """
local ours, all = {}, redis.pcall('ZRANGE', KEYS[1], 0, 499)
if all.err then redis.call('UNLINK', KEYS[1]) return {0, ours} end
for _, name in ipairs(all) do
  if #name == tonumber(ARGV[1]) then ours[#ours + 1] = name else redis.call('ZREM', KEYS[1], name) end
end
return {#all, ours}
"""

# KEYS: a thread or task, and the index of a user's keys. ARGV: the user's hash, line that stands for others, longest
# text. Takes the user out of the thread, which the others keep; answers whether the key was there.
STRIP: Final = (
    _COMMON
    + """
redis.call('ZREM', KEYS[2], KEYS[1])
local ttl = redis.call('PTTL', KEYS[1])
if ttl == -2 then return 0 end
local held, kept = lines_of(KEYS[1], tonumber(ARGV[3]), 64), {}
for _, one in ipairs(held) do
  if user_of(field_of(one)) ~= ARGV[1] then kept[#kept + 1] = one end
end
if #kept == 0 then
  redis.call('UNLINK', KEYS[1])
elseif #kept < #held then
  table.insert(kept, 1, string.format('%.0f', clock()) .. ' ' .. ARGV[2])
  redis.call('SET', KEYS[1], table.concat(kept, '\\n'), 'PX', math.max(ttl, 1))
end
return 1
"""
)


def sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def calls(script: str, arguments: Sequence[tuple[list[str], list[Any]]]) -> Iterator[tuple[Any, ...]]:
    """Yield the commands that run `script` once for each keys and arguments."""
    for number, (keys, values) in enumerate(arguments):
        # The first brings the script along, for Redis may have been flushed of it.
        yield *(("EVALSHA", sha(script)) if number else ("EVAL", script)), len(keys), *keys, *values
