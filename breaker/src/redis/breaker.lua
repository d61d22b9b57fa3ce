#!lua name=__NAME__
-- One decision on one breaker, atomically. The twin of `machine/` in Rust, function by function; change both.
--
-- A function library, loaded by whoever first finds it missing. An EVAL script makes every closure anew at every call,
-- which measured three times the cost of the whole decision. __NAME__ holds the text's hash, so that versions live side
-- by side, as scripts do.
--
-- KEYS  1 state  2 failures  3 last_failure  4 config  5 data  6 events  7 instances
-- ARGV  1 operation  2 the time (tests only; empty: the server's clock)  3 service id  4 channel  5 PUBLISH or SPUBLISH
--       6 instance, then by operation:
--   exchange   7 boot  8 memory  9 carried  10 may seed  11 batch number  12 batch generation  13 outcomes  14 probes
--              15 causes  16 rejected  17 gauge  18 gauge's generation  19 isolated  20 wish's token  21 wish's count
--   configure  7 owner  8 created  9 transitions  10 rules  11 override  12 spec
--   tombstone  7 owner  8 created  9 transitions
--   reset      7 owner  8 created  9 transitions  10 request
--   beat       7 the heartbeat's text
--
-- data, a hash with the fields
--   core            written when something in it has changed that `hot` does not tell. A msgpack map: v layout, seq, gen
--                   generation, st state, why reason, since, till (open deadline), lo last open duration, rnd round,
--                   strk backoff's count, clk clock, off clock minus the server's, trs transitions, prev state before
--                   (-1), mode, ramp (its start; 0), wt and wl window type and length, wid number of the window's
--                   emptying, rev revision judged by, w time window {bucket, calls, failing, slow, ...}, sl count window
--                   (5 characters a slot: kind, instance), run, runat, runby, gau gauge, frz frozen failures, lf last
--                   failure, ga first grant, per permitted, fin, bad, slo (finished, failed, slow probes), nl next
--                   lease, ls leases {id, instance, deadline, ...}, cz causes, rc recent causes, rt those after, sht,
--                   shl, shr (shadow trips, last, rejected), sec, cur, bef (decisions per second), swp last sweep, lp
--                   the clock's last leap, kno known instances, nix next index, trip last evidence, mf failures last
--                   written to key 2
--   hot             what any decision changes, and what stands here is not as the core says but as this does: the doubles
--                   seq, clk, sec, cur, bef, swp, kno, run, runat, gau, lf, mf and calls, failing, slow of the newest
--                   bucket, then rt, zero-terminated, and sl. Before layout 2 there was none.
--   i:<instance>    msgpack {index, seen, gauge, its generation, isolated, rejected at, wid, and of its newest bucket
--                   calls, failing, slow}, then w, whose newest bucket is as it was when it began
--   b:<boot>        msgpack {at, batch number, token, its generation, first lease, count}
-- All instants are of the breaker's own clock: the server's plus `off`, which grows when the server's steps back.
--
-- config, a hash: p msgpack {revision, tombstone, floor, override (-1 none, 0 closed, 1 open), its expiry, rules...},
--   and for reading: revision, spec, owner, created, transitions, seen_at, reset.
-- The 19 rules: mode, consecutive failures, failure rate bp, slow rate bp, slow ms, minimum calls, minimum instances,
--   window type (0 time, 1 count), window length, open ms, open max ms, jitter %, permitted calls, half-open ms, ramp ms,
--   ramp initial %, call timeout ms, connect timeout ms, store failure policy.

local LAYOUT = 2
local HOT = '<ddddddddddddddds'
local MAX_RECENT, MAX_AFTER = 256, 64
local CLOSED, OPEN, HALF, FOPEN, FCLOSED = 0, 1, 2, 3, 4
local ENFORCE, OBSERVE, DISABLED = 0, 1, 2
local SEEDED, RESEEDED, RUN, FAILING, SLOW, ISOLATED, WAITED, PASSED, FAILED, TIMEDOUT, LOST, FORCED, LAPSED, RESET, MODED =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
local NAMES = {[0] = 'closed', 'open', 'half_open', 'forced_open', 'forced_closed'}
local GAUGE_SILENCE, FORGET, LEAP, MAX_RETRY = 5000, 60000, 20000, 500
-- Bound by `begin`: while a library loads, the server hides its own libraries.
local floor, min, max, byte, find, call, pack, unpack_, spack, sunpack

-- The turn: rules, what the store has programmed, and what this decision produced. Set anew by `begin`.
local KEYS, ARGV, kdata, me
local now                   -- the server's clock, ms
local p                     -- the packed configuration, or nil
local R                     -- rules by name
local forced, expires       -- the override in force (-1 none, 0 closed, 1 open), and its end
local revision, stored_revision, void
local c                     -- core
local cold                  -- whether something in it changed that `hot` does not tell
local mine                  -- this instance's record
local bucket                -- the time window's current one, once settled
local sum_c, sum_f, sum_s   -- the window's totals
local events                -- with each a view
local causes                -- the causes this batch names, once read
local others                -- the other instances' records, once read
local stepped               -- the server's clock stepped back

local function numbers(text)
  local list = {}
  for n in string.gmatch(text, '%-?%d+') do list[#list + 1] = tonumber(n) end
  return list
end

-- What was decoded, kept between calls: a book for each breaker, by data key, with a page for each instance. A value stands
-- next to the text it was decoded from and is used only while that very text is what is stored, so whatever else writes
-- there is believed. Decoding costs as much as judging.
local MAX_KEPT = 2000
local kept, kept_count = {}, 0
local book                  -- this breaker's

-- A new book or page.
local function blank()
  if kept_count >= MAX_KEPT then
    kept, kept_count = {}, 0
    if book then book.pages = {} end
  end
  kept_count = kept_count + 1
  return {}
end

-- It is kept again when the decision is stored, so that one that fails halfway leaves nothing behind.
local function open_book()
  book = kept[kdata]
  kept[kdata] = nil
  if not book then
    book = blank()
    book.pages = {}
  end
end

local function page_of(name)
  local page = book.pages[name]
  if not page then
    page = blank()
    book.pages[name] = page
  end
  return page
end

local function begin(keys, args)
  if not call then
    floor, min, max, byte, find = math.floor, math.min, math.max, string.byte, string.find
    call, pack, unpack_, spack, sunpack = redis.call, cmsgpack.pack, cmsgpack.unpack, struct.pack, struct.unpack
  end
  KEYS, ARGV, kdata, me = keys, args, keys[5], args[6]
  p, R, c, mine, others, causes, stepped = nil, nil, nil, nil, nil, nil, false
  forced, expires, revision, stored_revision, void = -1, 0, 0, 0, 0
  sum_c, sum_f, sum_s, events, cold = 0, 0, 0, {}, false
  if ARGV[2] == '' then
    local t = call('TIME')
    now = t[1] * 1000 + floor(t[2] / 1000)
  else
    now = tonumber(ARGV[2])
  end
end

local function read_rules(list, from)
  return {mode = list[from], cf = list[from + 1], fr = list[from + 2], sr = list[from + 3], minc = list[from + 5],
    m = list[from + 6], wt = list[from + 7], wl = list[from + 8], open = list[from + 9], omax = list[from + 10],
    jit = list[from + 11], per = list[from + 12], half = list[from + 13], ramp = list[from + 14], tmo = list[from + 16]}
end

local function take_rules(rules, list, from)
  R = rules
  if list[from - 2] >= 0 and R.mode ~= DISABLED and (list[from - 1] == 0 or now < list[from - 1]) then
    forced, expires = list[from - 2], list[from - 1]
  end
end

local function silence() return c.wt == 0 and c.wl or 60000 end

local function tick()
  local reading = now + c.off
  if reading < c.clk then
    c.off, stepped, cold = c.off + c.clk - reading, true, true
  else
    if reading - c.clk >= LEAP then c.lp, cold = reading, true end
    c.clk = reading
  end
end

local function visible(instant) return max(0, instant - c.off) end

local function expire(w)
  local oldest = bucket - 9
  if #w == 0 or w[1] >= oldest then return w end
  local kept = {}
  for i = 1, #w, 4 do
    if w[i] >= oldest then
      local n = #kept
      kept[n + 1], kept[n + 2], kept[n + 3], kept[n + 4] = w[i], w[i + 1], w[i + 2], w[i + 3]
    end
  end
  return kept
end

local function sums(w)
  local a, b, s = 0, 0, 0
  for i = 1, #w, 4 do a, b, s = a + w[i + 1], b + w[i + 2], s + w[i + 3] end
  return a, b, s
end

-- Kinds: 0 success, 1 failure, 2 slow success, 3 slow failure, 4 ignored.
local function failing(kind) return (kind == 1 or kind == 3) and 1 or 0 end
local function slow(kind) return (kind == 2 or kind == 3) and 1 or 0 end

local function recount()
  if c.wt == 0 then
    sum_c, sum_f, sum_s = sums(c.w)
  else
    sum_c, sum_f, sum_s = #c.sl / 5, 0, 0
    for i = 1, #c.sl, 5 do
      local kind = string.byte(c.sl, i) - 65
      sum_f, sum_s = sum_f + failing(kind), sum_s + slow(kind)
    end
  end
end

local function failures()
  if c.st == CLOSED or c.st == FCLOSED then return sum_f end
  if c.st == HALF then return c.bad end
  return c.frz
end

local function lease_remaining()
  local most = 0
  for i = 3, #c.ls, 3 do most = max(most, c.ls[i] - c.clk) end
  return most
end

local function view()
  local remaining = 0
  if c.st == OPEN then remaining = max(0, c.till - c.clk)
  elseif c.st == FOPEN or c.st == FCLOSED then remaining = max(0, expires - visible(c.clk)) end
  local ramp = -1
  if c.ramp > 0 and c.clk - c.ramp < R.ramp then ramp = c.clk - c.ramp end
  return c.gen, c.st, c.why, c.clk - c.since, remaining, c.rnd, c.strk, c.lo, lease_remaining(), ramp, c.mode,
    stored_revision, c.seq
end

local function clear_window()
  c.wid, cold = c.wid + 1, true
  c.w, c.sl, c.run, c.runat, c.runby, c.cz, c.rc, c.rt = {}, '', 0, 0, {}, {}, '', ''
  sum_c, sum_f, sum_s = 0, 0, 0
end

local function end_run() c.run, c.runby, cold = 0, {}, true end

local function enter(from, to, reason, generation, evidence)
  local keeps = reason == RESEEDED and from == to
  local before = failures()
  c.gen, c.st, c.why, c.gau = generation, to, reason, 0
  if not keeps then
    c.prev, c.since = from, c.clk
    clear_window()
    c.frz = before
    c.ramp = (reason == PASSED and R.ramp > 0) and c.clk or 0
    c.ga, c.fin, c.bad, c.slo, c.nl, c.ls = 0, 0, 0, 0, 1, {}
    c.per = to == HALF and R.per or 0
    if to ~= OPEN then c.till = 0 end
    if to == CLOSED or to == FCLOSED then c.rnd = 0 end
  end
  c.trs = c.trs + 1
  cold = true
  events[#events + 1] = {generation, from, to, reason, visible(c.clk), evidence, {view()}}
end

local function minted() return max(c.gen + 1, now, void + 1) end

local function change(to, reason, evidence) enter(c.st, to, reason, minted(), evidence or '{}') end

local function int(n) return string.format('%.0f', n) end

local function open_ms(streak, generation)
  local d, doubled = R.open, 1
  while doubled < streak and d < R.omax do d, doubled = min(d * 2, R.omax), doubled + 1 end
  local h, text = 0, ARGV[3] .. int(generation)
  for i = 1, #text do h = (h * 31 + string.byte(text, i)) % 2147483647 end
  return d + floor(d * (h % (R.jit * 100 + 1)) / 10000)
end

local function open(reason, evidence)
  if c.st == CLOSED then
    c.strk = (c.clk - c.since >= R.ramp + c.lo) and 1 or c.strk + 1
    c.rnd = 1
  else
    c.strk, c.rnd = c.strk + 1, c.rnd + 1
  end
  local generation = minted()
  c.lo = open_ms(c.strk, generation)
  c.till = c.clk + c.lo
  enter(c.st, OPEN, reason, generation, evidence)
end

-- A record as it is stored, and back. Its buckets are packed again only when one begins or ends.
local function pack_record(r, page)
  local w, n = r[8], #r[8]
  if page.w ~= w or page.n ~= n then page.w, page.n, page.buckets = w, n, pack(w) end
  return pack({r[1], r[2], r[3], r[4], r[5], r[6], r[7], w[n - 2] or 0, w[n - 1] or 0, w[n] or 0}) .. page.buckets
end

local function unpack_record(packed)
  local r, w = unpack_(packed)
  -- Layout 1 has the buckets in their place.
  if w then
    local n = #w
    if n > 0 then w[n - 2], w[n - 1], w[n] = r[8], r[9], r[10] end
    r[8], r[9], r[10] = w, nil, nil
  end
  return r
end

-- Every instance's record but mine.
local function read_others()
  if others then return others end
  others = {}
  local all = call('HGETALL', kdata)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'i:' then
      local name = string.sub(all[i], 3)
      if name ~= me then others[#others + 1] = {name, unpack_record(all[i + 1])} end
    end
  end
  return others
end

-- An instance's name in the slots of a count window.
local function slot_key(index)
  local key, i = '', index
  for _ = 1, 4 do key, i = key .. string.char(i % 128), floor(i / 128) end
  return key
end

local function slot_sums(index)
  local key, a, b, s = slot_key(index), 0, 0, 0
  for at = 1, #c.sl, 5 do
    if string.sub(c.sl, at + 1, at + 4) == key then
      local kind = string.byte(c.sl, at) - 65
      a, b, s = a + 1, b + failing(kind), s + slow(kind)
    end
  end
  return a, b, s
end

local function share(r)
  if c.wt == 1 then return slot_sums(r[1]) end
  if r[7] ~= c.wid then return 0, 0, 0 end
  return sums(expire(r[8]))
end

-- The evidence by instance, {name, calls, failing, slow, gauge}: those with calls or running slow ones.
local function shares()
  local list = {}
  local function add(name, r)
    local a, b, s = share(r)
    local g = (r[4] == c.gen and c.clk - r[2] < GAUGE_SILENCE) and r[3] or 0
    if a + g > 0 then list[#list + 1] = {name, a, b, s, g} end
  end
  for _, o in ipairs(read_others()) do add(o[1], o[2]) end
  if mine then add(me, mine) end
  return list
end

local function holds(bad, calls, bp) return calls > 0 and bad * 10000 >= bp * calls end

local function minimum() return R.wt == 1 and min(R.minc, R.wl) or R.minc end

-- {bad, calls, name} by one rate, worst first: most bad, then fewest calls, then by name.
local function worst_first(list, is_slow)
  local ranked = {}
  for _, s in ipairs(list) do
    local bad, calls = s[3], s[2]
    if is_slow then bad, calls = s[4] + s[5], s[2] + s[5] end
    if calls > 0 then ranked[#ranked + 1] = {bad, calls, s[1]} end
  end
  table.sort(ranked, function(a, b)
    if a[1] ~= b[1] then return a[1] > b[1] end
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[3] < b[3]
  end)
  return ranked
end

local function rate_trips(is_slow, bp)
  if bp == 0 then return false end
  local bad, calls = sum_f, sum_c
  if is_slow then bad, calls = sum_s + c.gau, sum_c + c.gau end
  if calls < minimum() or not holds(bad, calls, bp) then return false end
  if R.m == 1 and not is_slow then return true end
  local list, gauge = shares(), 0
  for _, s in ipairs(list) do gauge = gauge + s[5] end
  if is_slow then bad, calls = sum_s + gauge, sum_c + gauge end
  if calls < minimum() or not holds(bad, calls, bp) then return false end
  local ranked = worst_first(list, is_slow)
  local agreeing = max(1, min(R.m, #ranked))
  for i = 1, agreeing - 1 do bad, calls = bad - ranked[i][1], calls - ranked[i][2] end
  return agreeing == 1 or holds(bad, calls, bp)
end

local function run_trips()
  if R.cf == 0 or c.run < R.cf then return false end
  if #c.runby >= R.m then return true end
  local callers = 0
  for _, s in ipairs(shares()) do if s[2] > 0 then callers = callers + 1 end end
  return #c.runby >= max(1, min(R.m, callers))
end

local function quoted_causes(count)
  local counts, ranked = {}, {}
  local recent = string.sub(c.rc .. c.rt, -MAX_RECENT)
  for i = max(1, #recent - count + 1), #recent do
    local index = string.byte(recent, i) - 64
    counts[index] = (counts[index] or 0) + 1
  end
  for index = 1, #c.cz do if counts[index] then ranked[#ranked + 1] = index end end
  table.sort(ranked, function(a, b) if counts[a] ~= counts[b] then return counts[a] > counts[b] end return a < b end)
  local out = {}
  for i = 1, min(5, #ranked) do out[i] = '["' .. c.cz[ranked[i]] .. '",' .. counts[ranked[i]] .. ']' end
  return '[' .. table.concat(out, ',') .. ']'
end

local function evidence(reason)
  local list, gauge = shares(), 0
  for _, s in ipairs(list) do
    gauge = gauge + s[5]
    s[6] = reason == SLOW and s[4] + s[5] or s[3]
  end
  table.sort(list, function(a, b)
    if a[6] ~= b[6] then return a[6] > b[6] end
    if a[2] ~= b[2] then return a[2] < b[2] end
    return a[1] < b[1]
  end)
  local top = {}
  for i = 1, min(3, #list) do top[i] = '["' .. list[i][1] .. '",' .. list[i][2] .. ',' .. list[i][6] .. ']' end
  return '{"calls":' .. sum_c .. ',"failures":' .. sum_f .. ',"slow":' .. sum_s .. ',"runningSlow":' .. gauge .. ',"run":'
    .. c.run .. ',"causes":' .. quoted_causes(max(sum_f, c.run)) .. ',"top":[' .. table.concat(top, ',') .. ']}'
end

local function probe_evidence()
  return '{"finished":' .. c.fin .. ',"failed":' .. c.bad .. ',"slow":' .. c.slo .. ',"causes":' .. quoted_causes(c.bad) .. '}'
end

local function trip(reason)
  local why = evidence(reason)
  c.trip = why
  if R.mode == OBSERVE then c.sht, c.shl = c.sht + 1, c.clk end
  open(reason, why)
end

local function judge()
  if c.st ~= CLOSED or c.mode == DISABLED then return end
  if run_trips() then trip(RUN)
  elseif rate_trips(false, R.fr) then trip(FAILING)
  elseif rate_trips(true, R.sr) then trip(SLOW) end
end

local function is_isolated(r) return r[5] == c.gen + 1 and c.clk - r[2] < GAUGE_SILENCE end

local function mostly_isolated()
  if R.m < 2 then return false end
  local active, isolated = 0, 0
  local function look(r)
    local rejected = r[7] == c.wid and r[6] > 0 and c.clk - r[6] < silence()
    local alone = is_isolated(r)
    if alone or rejected or share(r) > 0 then
      active = active + 1
      if alone then isolated = isolated + 1 end
    end
  end
  for _, o in ipairs(read_others()) do look(o[2]) end
  look(mine)
  return isolated * 2 > active
end

local function probes_fail(of)
  local bad
  if R.fr == 0 then bad = c.bad > 0 else bad = c.bad > 0 and c.bad * 10000 >= R.fr * of end
  return bad or (R.sr > 0 and c.slo > 0 and c.slo * 10000 >= R.sr * of)
end

-- Memory: {generation, state, remaining, round, streak, last open, lease remaining}.
local function remembered(m)
  if m[2] == OPEN or m[2] == FOPEN then return OPEN end
  if m[2] == HALF then return HALF end
  return CLOSED
end

local function remembered_ms(m)
  if m[2] == OPEN then return min(m[3], 172800000) end
  if m[2] == HALF then return min(m[7], 3600000) end
  return 0
end

local function forced_state() return forced == 1 and FOPEN or FCLOSED end

local function seed(m, may_seed)
  if m and m[1] <= void then m = nil end
  if forced >= 0 then
    c.gen = m and m[1] or 0
    enter(-1, forced_state(), FORCED, minted(), '{}')
  elseif m then
    c.strk, c.lo = m[5], min(m[6], 172800000)
    if remembered(m) == CLOSED or R.mode == DISABLED then
      enter(-1, CLOSED, RESEEDED, m[1] + 1, '{}')
    else
      c.till, c.rnd = c.clk + remembered_ms(m), max(1, m[4])
      enter(-1, OPEN, RESEEDED, m[1] + 1, '{}')
    end
  elseif may_seed then
    enter(-1, CLOSED, SEEDED, 0, '{}')
  else
    return false
  end
  return true
end

local OPENNESS = {[0] = 0, 2, 1, 2, 0}

local function reseed(m)
  local theirs = remembered(m)
  local newer = m[1] > c.gen
  local more_open = m[1] == c.gen and OPENNESS[theirs] > OPENNESS[c.st]
  if m[1] == 0 or m[1] <= void or not (newer or more_open) then return end
  local generation = max(m[1], c.gen) + 1
  if c.st == HALF or (c.st == CLOSED and theirs ~= CLOSED and R.mode ~= DISABLED) then
    local theirs_ms = theirs == CLOSED and 0 or remembered_ms(m)
    c.till = c.clk + max(lease_remaining(), theirs_ms)
    c.rnd, c.strk, c.lo = max(c.rnd, m[4], 1), max(c.strk, m[5]), max(c.lo, min(m[6], 172800000))
    enter(c.st, OPEN, RESEEDED, generation, '{}')
  else
    enter(c.st, c.st, RESEEDED, generation, '{}')
  end
end

local function adopt()
  if revision < c.rev then return end
  if revision ~= c.rev then c.rev, cold = revision, true end
  if c.mode ~= R.mode then
    c.mode, c.strk = R.mode, 0
    change(CLOSED, MODED)
  end
  if forced >= 0 then
    if c.st ~= forced_state() then change(forced_state(), FORCED) end
  elseif c.st == FOPEN then
    c.rnd, c.till = max(c.rnd, 1), c.clk
    change(OPEN, LAPSED)
  elseif c.st == FCLOSED then
    change(CLOSED, LAPSED)
  end
  if c.wt ~= R.wt or c.wl ~= R.wl then
    c.wt, c.wl = R.wt, R.wl
    clear_window()
  end
end

local function close() change(CLOSED, PASSED, probe_evidence()) end

local function advance()
  if c.wt == 0 then
    bucket = floor(10 * c.clk / c.wl)
    local w = expire(c.w)
    if w ~= c.w then
      c.w, cold = w, true
      recount()
    end
  end
  if c.run > 0 and c.clk - c.runat >= silence() then end_run() end
  if c.st == OPEN and c.mode == OBSERVE and c.clk >= c.till then change(HALF, WAITED) end
  if c.st == HALF then
    local live = {}
    for i = 1, #c.ls, 3 do
      if c.ls[i + 2] > c.clk then
        local n = #live
        live[n + 1], live[n + 2], live[n + 3] = c.ls[i], c.ls[i + 1], c.ls[i + 2]
      end
    end
    c.ls = live
    if c.ga > 0 and c.clk - c.ga >= R.half then
      if c.fin == 0 then change(HALF, LOST)
      elseif probes_fail(c.fin) then open(TIMEDOUT, probe_evidence())
      else close() end
    end
  end
end

local function settle()
  adopt()
  advance()
end

-- The cause a letter, as a number, stands for in this batch.
local function cause(letter)
  if not causes then
    causes = {}
    for name in string.gmatch(ARGV[15], '%S+') do causes[#causes + 1] = name end
  end
  return causes[letter - 64] or 'failure'
end

-- The place of a cause among the window's, as a character.
local function cause_mark(cause)
  local position
  for i, name in ipairs(c.cz) do if name == cause then position = i break end end
  if not position then
    local name = #c.cz < 15 and cause or 'other'
    for i, known in ipairs(c.cz) do if known == name then position = i break end end
    if not position then
      position = #c.cz + 1
      c.cz[position], cold = name, true
    end
  end
  return string.char(64 + position)
end

local function note_failures(marks)
  c.lf = c.clk
  c.rt = c.rt .. marks
  if #c.rt > MAX_AFTER then c.rc, c.rt, cold = string.sub(c.rc .. c.rt, -MAX_RECENT), '', true end
end

local function probe(kind, cause)
  if kind == 4 then return end
  c.fin, c.bad, c.slo = c.fin + 1, c.bad + failing(kind), c.slo + slow(kind)
  if failing(kind) == 1 then note_failures(cause_mark(cause)) end
  if probes_fail(c.per) then open(FAILED, probe_evidence())
  elseif c.fin >= c.per then close() end
end

local function add_to(w, calls, failing_ones, slow_ones)
  local n = #w
  if n == 0 or w[n - 3] ~= bucket then
    w[n + 1], w[n + 2], w[n + 3], w[n + 4] = bucket, 0, 0, 0
    n = n + 4
    cold = cold or w == c.w
  end
  w[n - 2], w[n - 1], w[n] = w[n - 2] + calls, w[n - 1] + failing_ones, w[n] + slow_ones
end

local function join_run()
  local known = #c.runby >= R.m
  for _, name in ipairs(c.runby) do known = known or name == me end
  if not known then c.runby[#c.runby + 1], cold = me, true end
end

local function outcome(kind, cause)
  if c.wt == 0 then
    add_to(c.w, 1, failing(kind), slow(kind))
    add_to(mine[8], 1, failing(kind), slow(kind))
  else
    c.sl = c.sl .. string.char(65 + kind) .. slot_key(mine[1])
    if #c.sl > 5 * c.wl then
      local gone = string.byte(c.sl, 1) - 65
      sum_c, sum_f, sum_s = sum_c - 1, sum_f - failing(gone), sum_s - slow(gone)
      c.sl = string.sub(c.sl, 6)
    end
  end
  sum_c, sum_f, sum_s = sum_c + 1, sum_f + failing(kind), sum_s + slow(kind)
  c.runat = c.clk
  if failing(kind) == 1 then
    note_failures(cause_mark(cause))
    c.run = c.run + 1
    join_run()
  elseif c.run > 0 then
    end_run()
  end
  judge()
end

-- Whether no `judge` after any of so many outcomes could trip: even with all the bad ones first.
local function harmless(bad, slow_ones)
  if c.st == FCLOSED then return true end
  return (R.cf == 0 or c.run + bad < R.cf)
    and (R.fr == 0 or not holds(sum_f + bad, max(minimum(), sum_c), R.fr))
    and (R.sr == 0 or not holds(sum_s + c.gau + slow_ones, max(minimum(), sum_c + c.gau), R.sr))
end

-- Takes all outcomes at once, which is several times cheaper and gives what one by one gives; false when one of them
-- could trip, or is to be ignored.
local function bulk(outcomes)
  local calls, bad, slow_ones, letters = #outcomes / 2, 0, 0, nil
  -- Plain searches: matching a set costs ten times as much a character.
  if find(outcomes, '4', 1, true) then return false end
  local wanted, plain = '1', true
  if find(outcomes, '2', 1, true) or find(outcomes, '3', 1, true) then
    for _ in string.gmatch(outcomes, '[23]') do slow_ones = slow_ones + 1 end
    wanted, plain = '[13]', false
  end
  local at = find(outcomes, wanted, 1, plain)
  if at then letters = {} end
  while at do
    bad = bad + 1
    letters[bad] = byte(outcomes, at + 1)
    at = find(outcomes, wanted, at + 2, plain)
  end
  if not harmless(bad, slow_ones) then return false end
  if c.wt == 0 then
    add_to(c.w, calls, bad, slow_ones)
    add_to(mine[8], calls, bad, slow_ones)
    sum_c, sum_f, sum_s = sum_c + calls, sum_f + bad, sum_s + slow_ones
  else
    local key = slot_key(mine[1])
    local slots = string.gsub(outcomes, '(%d).', {['0'] = 'A' .. key, ['1'] = 'B' .. key, ['2'] = 'C' .. key, ['3'] = 'D' .. key})
    c.sl = string.sub(c.sl .. slots, -5 * c.wl)
    recount()
  end
  c.runat = c.clk
  if bad > 0 then
    local marks = {}
    for i = 1, bad do
      local letter = letters[i]
      if not marks[letter] then marks[letter] = cause_mark(cause(letter)) end
      letters[i] = marks[letter]
    end
    note_failures(table.concat(letters))
  end
  -- The run: what fails at the end, and all before it when nothing else happened.
  local last = 0
  while last < bad and failing(byte(outcomes, #outcomes - 1 - 2 * last) - 48) == 1 do last = last + 1 end
  if last < calls and c.run > 0 then end_run() end
  if last > 0 then
    c.run = c.run + last
    join_run()
  end
  return true
end

local function probes_of(generation, probes)
  local applied, late = 0, 0
  for lease, kind, letter in string.gmatch(probes, '(%d+):(%d)(.)') do
    local held
    for i = 1, #c.ls, 3 do
      if c.ls[i] == tonumber(lease) and c.ls[i + 1] == me then held = i break end
    end
    if held and c.st == HALF and c.gen == generation then
      for _ = 1, 3 do table.remove(c.ls, held) end
      applied = applied + 1
      probe(tonumber(kind), cause(byte(letter)))
    else
      late = late + 1
    end
  end
  return applied, late
end

local function batch(generation, outcomes, probes)
  local applied, late = 0, 0
  if probes ~= '' then applied, late = probes_of(generation, probes) end
  if #outcomes > 1024 then outcomes = string.sub(outcomes, 1, 1024) end
  if c.gen == generation and (c.st == CLOSED or c.st == FCLOSED) and c.mode ~= DISABLED and outcomes ~= ''
    and bulk(outcomes) then
    return applied + #outcomes / 2, late
  end
  for i = 1, #outcomes, 2 do
    local kind = string.byte(outcomes, i) - 48
    if c.gen ~= generation or kind == 4 then
      if kind ~= 4 then late = late + 1 end
    else
      local why = cause(byte(outcomes, i + 1))
      if (c.st == CLOSED or c.st == FCLOSED) and c.mode ~= DISABLED then
        applied = applied + 1
        outcome(kind, why)
      elseif c.st == HALF and c.mode == OBSERVE then
        applied = applied + 1
        if c.ga == 0 then c.ga = c.clk end
        probe(kind, why)
      else
        late = late + 1
      end
    end
  end
  return applied, late
end

local function acquire(want)
  if c.mode ~= ENFORCE then return 0, 0, 0 end
  if c.st == OPEN and c.clk >= c.till then change(HALF, WAITED) end
  if c.st == CLOSED or c.st == FCLOSED then return 0, 0, 0 end
  if c.st == FOPEN then return 0, 0, MAX_RETRY end
  if c.st == OPEN then return 0, 0, min(MAX_RETRY, c.till - c.clk) end
  local count = min(want, max(0, c.per - #c.ls / 3 - c.fin))
  if count == 0 then
    local next_end = MAX_RETRY
    for i = 3, #c.ls, 3 do next_end = min(next_end, c.ls[i] - c.clk) end
    return 0, 0, max(1, next_end)
  end
  local first = c.nl
  if c.ga == 0 then c.ga = c.clk end
  local deadline = c.clk + min(R.tmo == 0 and 10000 or R.tmo + 1000, R.half)
  for id = first, first + count - 1 do
    local n = #c.ls
    c.ls[n + 1], c.ls[n + 2], c.ls[n + 3] = id, me, deadline
  end
  c.nl = first + count
  return first, count, 0
end

local function sweep()
  c.swp = c.clk
  local settled = c.lp == 0 or c.clk - c.lp >= FORGET
  local gone, known, gauge = {}, 1, mine[4] == c.gen and mine[3] or 0
  local kept = {}
  for _, o in ipairs(read_others()) do
    local r = o[2]
    if not settled or c.clk - r[2] < FORGET or share(r) > 0 then
      kept[#kept + 1], known = o, known + 1
      if r[4] == c.gen and c.clk - r[2] < GAUGE_SILENCE then gauge = gauge + r[3] end
    else
      gone[#gone + 1] = 'i:' .. o[1]
    end
  end
  others, c.kno, c.gau = kept, known, gauge
  local all = call('HKEYS', kdata)
  for _, field in ipairs(all) do
    if string.sub(field, 1, 2) == 'b:' and field ~= 'b:' .. ARGV[7] then
      if settled and c.clk - unpack_(call('HGET', kdata, field))[1] >= FORGET then gone[#gone + 1] = field end
    end
  end
  for i = 1, #gone, 1000 do call('HDEL', kdata, unpack(gone, i, min(i + 999, #gone))) end
end

local function room_to_rate(bad, calls, bp)
  local missing = max(0, bp * calls - bad * 10000)
  if missing == 0 then return 0 end
  if bp == 10000 then return nil end
  return math.ceil(missing / (10000 - bp))
end

local function held_back_room(is_slow, bp)
  if R.wt == 1 then return 0 end
  local ranked = worst_first(shares(), is_slow)
  local agreeing = max(1, min(R.m, #ranked))
  for i = 1, agreeing - 1 do if ranked[i][3] == me then return nil end end
  if agreeing == 1 then return 0 end
  local own, bad, calls = 0, 0, 0
  for i, r in ipairs(ranked) do
    if r[3] == me then own = r[1] end
    if i >= agreeing then bad, calls = bad + r[1], calls + r[2] end
  end
  local room = max(0, max(0, ranked[agreeing - 1][1] - own) - 1)
  local to_rate = room_to_rate(bad, calls, bp)
  return to_rate and min(room, max(0, to_rate - 1)) or room
end

local function rate_room(is_slow, bp)
  local bad, calls = sum_f, sum_c
  if is_slow then bad, calls = sum_s + c.gau, sum_c + c.gau end
  if calls >= minimum() and holds(bad, calls, bp) then return held_back_room(is_slow, bp) end
  local to_rate = room_to_rate(bad, calls, bp)
  if R.wt == 1 then
    local full = max(0, math.ceil(bp * R.wl / 10000) - bad)
    to_rate = to_rate and min(to_rate, full) or full
  end
  return to_rate and max(0, max(to_rate, minimum() - calls) - 1)
end

local function run_room()
  if c.run < R.cf then return R.cf - c.run - 1 end
  for _, name in ipairs(c.runby) do if name == me then return nil end end
  return 0
end

-- The lesser of two rooms; nil is unlimited.
local function lesser(a, b)
  if a and b then return min(a, b) end
  return a or b
end

local function headroom()
  if c.st ~= CLOSED or c.mode ~= ENFORCE then return -1, 0 end
  local least = R.cf > 0 and run_room() or nil
  if R.fr > 0 then least = lesser(least, rate_room(false, R.fr)) end
  if R.sr > 0 then least = lesser(least, rate_room(true, R.sr)) end
  local valid = silence()
  if R.wt == 0 then
    valid = max(1, floor((bucket + 1) * R.wl / 10) - c.clk)
  end
  return least or -1, valid
end

-- Writes the companions, the events and the announcements. `all`: also the companions that have not changed.
local function finish(all, before)
  all = all or stepped or #events > 0
  if not all and c.mf == before and c.lf ~= c.clk then return end
  local ttl = 0
  if c.st == CLOSED then ttl = 2 * silence() + R.ramp + c.lo + 3600000 end
  local function put(key, value)
    -- Setting a TTL costs as much as the rest of SET; the next sweep renews it.
    if not all and call('SET', key, value, 'XX', 'KEEPTTL') then return end
    if ttl > 0 then call('SET', key, value, 'PX', int(ttl)) else call('SET', key, value) end
  end
  if all then
    put(KEYS[1], NAMES[c.st])
    if ttl > 0 then call('PEXPIRE', kdata, int(ttl)) else call('PERSIST', kdata) end
  end
  if all or c.mf ~= before then put(KEYS[2], int(c.mf)) end
  if c.lf > 0 and (all or c.lf == c.clk) then
    local at = visible(c.lf)
    put(KEYS[3], string.format('%.0f.%02d', floor(at / 1000), floor(at % 1000 / 10)))
  end
  for _, e in ipairs(events) do
    call('XADD', KEYS[6], 'MAXLEN', '100', '*', 'generation', int(e[1]), 'from', int(e[2]), 'to', int(e[3]), 'reason',
      int(e[4]), 'at', int(e[5]), 'instance', me, 'snapshot', e[6])
  end
  if #events > 0 then call('PEXPIRE', KEYS[6], '604800000') end
  for _, e in ipairs(events) do call(ARGV[5], ARGV[4], 'T ' .. ARGV[3] .. ' ' .. table.concat(e[7], ' ')) end
end

-- Stores the state; returns the failures last written to key 2.
local function save(...)
  local before = c.mf
  c.mf = failures()
  local w, n, slots = c.w, #c.w, c.sl
  local hot = spack(HOT, c.seq, c.clk, c.sec, c.cur, c.bef, c.swp, c.kno, c.run, c.runat, c.gau, c.lf, c.mf,
    w[n - 2] or 0, w[n - 1] or 0, w[n] or 0, c.rt) .. slots
  -- A round is short, and all of it is in the core.
  if cold or c.st == HALF then
    c.sl = ''
    book.core = pack(c)
    c.sl = slots
    call('HSET', kdata, 'hot', hot, 'core', book.core, ...)
  else
    call('HSET', kdata, 'hot', hot, ...)
  end
  book.hot, book.c, book.calls, book.failing, book.slow = hot, c, sum_c, sum_f, sum_s
  kept[kdata] = book
  return before
end

local function new_core()
  return {v = LAYOUT, seq = 0, gen = 0, st = CLOSED, why = SEEDED, since = now, till = 0, lo = 0, rnd = 0, strk = 0,
    clk = now, off = 0, trs = 0, prev = -1, mode = R.mode, ramp = 0, wt = R.wt, wl = R.wl, wid = 0, rev = revision,
    w = {}, sl = '', run = 0, runat = 0, runby = {}, gau = 0, frz = 0, lf = 0, ga = 0, per = 0, fin = 0, bad = 0, slo = 0,
    nl = 1, ls = {}, cz = {}, rc = '', rt = '', sht = 0, shl = 0, shr = 0, sec = 0, cur = 0, bef = 0, swp = now, lp = 0,
    kno = 0, nix = 1, trip = '', mf = -1}
end

-- Unpacks the core; false when its layout is newer than this script.
local function read_core(packed, hot)
  c, book.core = unpack_(packed), packed
  if c.v > LAYOUT then return false end
  if c.v < LAYOUT then c.v, cold = LAYOUT, true end
  if not hot then
    c.rt = ''
    return true
  end
  local calls, bad, slow_ones, rest
  c.seq, c.clk, c.sec, c.cur, c.bef, c.swp, c.kno, c.run, c.runat, c.gau, c.lf, c.mf, calls, bad, slow_ones, c.rt, rest =
    sunpack(HOT, hot)
  c.sl = string.sub(hot, rest)
  local w, n = c.w, #c.w
  if n > 0 then w[n - 2], w[n - 1], w[n] = calls, bad, slow_ones end
  return true
end

-- Returns the core and the further fields as stored; false when there is nothing, nil when its layout is newer than
-- this script.
local function load_core(...)
  local stored = call('HMGET', kdata, 'core', 'hot', ...)
  local packed, hot = stored[1], stored[2]
  if not packed then return false end
  local known = book.core == packed and book.hot == hot
  if known then
    c, sum_c, sum_f, sum_s = book.c, book.calls, book.failing, book.slow
  elseif not read_core(packed, hot) then return nil end
  if revision < c.rev then
    local own = {}
    for name, value in pairs(R) do own[name] = value end
    own.mode, own.wt, own.wl = c.mode, c.wt, c.wl
    R = own
  end
  tick()
  if not known then recount() end
  return stored
end

local stored_rules

local function load_config()
  open_book()
  local packed = call('HGET', KEYS[4], 'p')
  if packed then
    if book.config ~= packed then
      book.config, book.p = packed, unpack_(packed)
      book.rules = book.p[2] == 0 and read_rules(book.p, 6)
    end
    p, stored_rules, void = book.p, book.rules, book.p[3]
  end
end

local function use_stored()
  revision, stored_revision = p[1], p[1]
  take_rules(stored_rules, p, 6)
end

local function exchange()
  load_config()
  if book.carried ~= ARGV[9] then
    book.carried, book.known = ARGV[9], tonumber(string.match(ARGV[9], '^%d+') or 0)
  end
  local known = book.known
  if p and p[2] == 0 then
    use_stored()
  elseif not p and ARGV[9] ~= '' then
    revision = known
    local carried = numbers(ARGV[9])
    take_rules(read_rules(carried, 4), carried, 4)
  else
    return {2, void}
  end
  local my_field, marker_field = 'i:' .. me, 'b:' .. ARGV[7]
  local found = load_core(my_field, marker_field)
  if found == nil then return {3, void} end
  local page = page_of(me)
  if found and found[3] then mine = page.packed == found[3] and page.mine or unpack_record(found[3]) end
  if page.memory ~= ARGV[8] then
    local generation, state = string.match(ARGV[8], '^(%d+) (%d+)')
    page.memory, page.gen, page.st = ARGV[8], tonumber(generation), tonumber(state)
  end
  local remembered_gen = page.gen
  if found then
    if not mine and c.kno >= 2000 then return {4, void} end
    -- The rest of a memory is read when it says something else.
    if remembered_gen and (remembered_gen ~= c.gen or page.st ~= c.st) then reseed(numbers(ARGV[8])) end
  else
    c = new_core()
    others = {}
    if not seed(remembered_gen and numbers(ARGV[8]), ARGV[10] == '1') then return {1, void} end
  end
  settle()
  c.seq = c.seq + 1
  local second = floor(c.clk / 1000)
  if second ~= c.sec then
    c.bef, c.sec, c.cur = second == c.sec + 1 and c.cur or 0, second, 0
  end
  c.cur = c.cur + 1
  if not mine then
    mine = {c.nix, 0, 0, 0, 0, 0, c.wid, {}}
    c.kno, c.nix, cold = c.kno + 1, c.nix + 1, true
  end
  mine[2] = c.clk
  if mine[7] ~= c.wid then mine[6], mine[7], mine[8] = 0, c.wid, {} end
  if c.wt == 0 then mine[8] = expire(mine[8]) end
  local marker = {0, 0, 0, 0, 0, 0}
  if found and found[4] then marker = page.marked == found[4] and page.marker or unpack_(found[4]) end
  marker[1] = c.clk
  local applied, late = 0, 0
  local number = tonumber(ARGV[11])
  if number > marker[2] then
    marker[2] = number
    if ARGV[16] ~= '0' then
      local rejected = tonumber(ARGV[16])
      mine[6] = c.clk
      if c.mode == OBSERVE then c.shr, cold = c.shr + rejected, true end
    end
    applied, late = batch(tonumber(ARGV[12]), ARGV[13], ARGV[14])
  end
  local gauge = ARGV[17] == '0' and 0 or tonumber(ARGV[17])
  local before = mine[4] == c.gen and mine[3] or 0
  local counts = gauge > 0 and c.st == CLOSED and c.mode ~= DISABLED and tonumber(ARGV[18]) == c.gen
  mine[3], mine[4] = counts and gauge or 0, c.gen
  c.gau = max(0, c.gau - before) + mine[3]
  if gauge > 0 then judge() end
  local first, count, retry = 0, 0, 0
  if ARGV[20] ~= '0' then
    local token = tonumber(ARGV[20])
    if marker[3] == token and marker[4] == c.gen and marker[6] > 0 then
      first, count = marker[5], marker[6]
    else
      first, count, retry = acquire(tonumber(ARGV[21]))
      marker[3], marker[4], marker[5], marker[6] = token, c.gen, first, count
    end
  end
  local mark = (ARGV[19] == '1' and remembered_gen == c.gen) and c.gen + 1 or 0
  local news = mark > 0 and mine[5] ~= mark
  mine[5] = mark
  local swept = news or c.clk - c.swp >= max(1000, 10 * c.kno)
  if swept then
    sweep()
    if c.st == CLOSED and c.mode == ENFORCE and mostly_isolated() then trip(ISOLATED) end
  end
  local room, valid = headroom()
  local caused = ''
  if #events > 0 then
    local list = {}
    for i, e in ipairs(events) do list[i] = e[2] .. ' ' .. e[3] .. ' ' .. e[4] end
    caused = table.concat(list, ';')
  end
  page.packed, page.mine, page.marked, page.marker = pack_record(mine, page), mine, pack(marker), marker
  finish(swept or number == 0, save(my_field, page.packed, marker_field, page.marked))
  local g, st, why, age, remaining, round, streak, lo, lease, ramp, mode, stored, seq = view()
  local reply = {0, void, g, st, why, age, remaining, round, streak, lo, lease, ramp, mode, stored, seq, sum_c, sum_f, sum_s,
    room, valid, (c.bef > 100 or c.kno > 100) and c.kno * 2 or 0, first, count, retry, applied, late, caused}
  if p and known ~= p[1] then reply[28], reply[29] = pack(p), call('HGET', KEYS[4], 'spec') or '' end
  return reply
end

-- The operator's writes answer {0 changed, 1 unchanged, 2 owned elsewhere, 3 superseded; a number; the owner}.
local function refusal()
  if not p then return nil end
  local h = call('HMGET', KEYS[4], 'owner', 'created', 'transitions', 'seen_at')
  local created, transitions = tonumber(h[2] or 0), tonumber(h[3] or 0)
  if h[1] == ARGV[7] then
    local mine_created, mine_transitions = tonumber(ARGV[8]), tonumber(ARGV[9])
    if mine_created < created or (mine_created == created and mine_transitions < transitions) then return {3, 0, ''} end
  elseif p[2] == 0 and now - tonumber(h[4] or 0) < 600000 then
    return {2, 0, h[1] or ''}
  end
  return nil
end

local function announce_revision() call(ARGV[5], ARGV[4], 'R ' .. ARGV[3]) end

local function sign()
  call('HSET', KEYS[4], 'owner', ARGV[7], 'created', ARGV[8], 'transitions', ARGV[9], 'seen_at', int(now))
end

local function settle_stored(then_do)
  use_stored()
  if load_core() then
    c.seq = c.seq + 1
    settle()
    if then_do then then_do() end
    finish(false, save())
  end
end

local function configure()
  load_config()
  local refused = refusal()
  if refused then return refused end
  local wanted = numbers(ARGV[10])
  local override = ARGV[11] == '' and {-1, 0} or numbers(ARGV[11])
  local before = (p and p[2] == 0) and p[1] or 0
  local function packed(rev) return pack({rev, 0, void, override[1], override[2], unpack(wanted)}) end
  local core = call('HGET', kdata, 'core')
  local judged = core and unpack_(core).rev or 0
  local unchanged = before > 0 and before >= judged and packed(before) == call('HGET', KEYS[4], 'p')
    and call('HGET', KEYS[4], 'spec') == ARGV[12]
  local rev = unchanged and before or max(before + 1, judged + 1, now, void + 1)
  if not unchanged then
    call('PERSIST', KEYS[4])
    call('HSET', KEYS[4], 'p', packed(rev), 'revision', int(rev), 'spec', ARGV[12])
  end
  sign()
  load_config()
  settle_stored()
  if not unchanged then announce_revision() end
  return {unchanged and 1 or 0, rev, ''}
end

local function tombstone()
  load_config()
  local refused = refusal()
  if refused then return refused end
  if p and p[2] == 1 then return {1, void, ''} end
  local packed = call('HGET', kdata, 'core')
  local core = packed and unpack_(packed) or {gen = 0, rev = 0}
  local ground = max(void, p and p[1] or 0, core.gen, core.rev)
  for _, key in ipairs(KEYS) do call('DEL', key) end
  call('HSET', KEYS[4], 'p', pack({0, 1, ground, -1, 0}))
  sign()
  call('PEXPIRE', KEYS[4], '86400000')
  announce_revision()
  return {0, ground, ''}
end

local function reset()
  load_config()
  local refused = refusal()
  if refused then return refused end
  if not p or p[2] == 1 then return {1, 0, ''} end
  if call('HGET', KEYS[4], 'reset') == ARGV[10] then return {1, p[1], ''} end
  local core = call('HGET', kdata, 'core')
  -- Not noted as carried out: a newer script still can.
  if core and unpack_(core).v > LAYOUT then return redis.error_reply('ERR tiebar: the stored layout is newer') end
  call('HSET', KEYS[4], 'reset', ARGV[10])
  sign()
  settle_stored(function()
    if c.st == CLOSED or c.st == OPEN or c.st == HALF then
      c.strk = 0
      change(CLOSED, RESET)
    end
  end)
  announce_revision()
  return {0, p[1], ''}
end

local function beat()
  local key = KEYS[7]
  call('HSET', key, me, ARGV[7] .. ' ' .. int(now))
  call('PEXPIRE', key, '120000')
  if call('HLEN', key) > 2000 then
    local all = call('HGETALL', key)
    for i = 1, #all, 2 do
      local seen = tonumber(string.match(all[i + 1], '(%d+)$') or 0)
      if now - seen >= FORGET then call('HDEL', key, all[i]) end
    end
  end
  return {0}
end

local operations = {exchange = exchange, configure = configure, tombstone = tombstone, reset = reset, beat = beat}

redis.register_function('__NAME__', function(keys, args)
  local operation = operations[args[1]]
  if not operation then return redis.error_reply('ERR tiebar: unknown operation') end
  begin(keys, args)
  return operation()
end)
