//! Between the machine's types and what the script takes, returns and stores.

use crate::machine::data::Lease;
use crate::machine::window::{Buckets, Slots, Sums};
use crate::machine::{ConfigRow, Core, Data, MAX_RECENT, Marker, Record};
use crate::policy::{Config, Mode, Override, Policy, StoreFailurePolicy, Window};
use crate::state::{Kind, Reason, State};
use crate::store::{Event, Exchange, Leader, Memory, Programmed, Reply, Status, StoreError, StoreResult, View};
use redis::Value;
use std::collections::{BTreeMap, HashMap};

/// The layout this version reads and writes; the script's `LAYOUT`.
pub const LAYOUT: u64 = 2;

/// Numbers beyond are none of the script's, whose arithmetic is exact up to here; calculating with them would overflow.
const EXACT: u64 = 1 << 53;

fn broken(what: &str) -> StoreError {
    StoreError::Protocol(what.to_owned())
}

fn mode_of(code: u64) -> Mode {
    [Mode::Enforce, Mode::Observe, Mode::Disabled]
        .into_iter()
        .find(|mode| *mode as u64 == code)
        .unwrap_or_default()
}

/// The 19 rules in the script's order.
#[must_use]
pub fn rules(policy: &Policy) -> [u64; 19] {
    let (window_type, window_length) = match policy.window {
        Window::Time(ms) => (0, ms),
        Window::Count(size) => (1, size),
    };
    [
        policy.mode as u64,
        policy.consecutive_failures,
        policy.failure_rate_bp,
        policy.slow_rate_bp,
        policy.slow_call_ms,
        policy.minimum_calls,
        policy.minimum_instances,
        window_type,
        window_length,
        policy.open_ms,
        policy.open_max_ms,
        policy.jitter_percent,
        policy.permitted_calls,
        policy.half_open_ms,
        policy.ramp_ms,
        policy.ramp_initial_percent,
        policy.call_timeout_ms,
        policy.connect_timeout_ms,
        policy.store_failure as u64,
    ]
}

/// The rules as a policy.
fn policy(rules: &[u64]) -> Option<Policy> {
    let rules: &[u64; 19] = rules.try_into().ok()?;
    let failure_policies = [
        StoreFailurePolicy::LocalOnly,
        StoreFailurePolicy::Allow,
        StoreFailurePolicy::Deny,
    ];
    Some(Policy {
        mode: mode_of(rules[0]),
        consecutive_failures: rules[1],
        failure_rate_bp: rules[2],
        slow_rate_bp: rules[3],
        slow_call_ms: rules[4],
        minimum_calls: rules[5],
        minimum_instances: rules[6],
        window: window(rules[7], rules[8])?,
        open_ms: rules[9],
        open_max_ms: rules[10],
        jitter_percent: rules[11],
        permitted_calls: rules[12],
        half_open_ms: rules[13],
        ramp_ms: rules[14],
        ramp_initial_percent: rules[15],
        call_timeout_ms: rules[16],
        connect_timeout_ms: rules[17],
        store_failure: failure_policies
            .into_iter()
            .find(|p| *p as u64 == rules[18])
            .unwrap_or_default(),
    })
}

/// None without a length, by which instants are divided.
fn window(kind: u64, length: u64) -> Option<Window> {
    match (kind, length) {
        (_, 0) => None,
        (0, ms) => Some(Window::Time(ms)),
        (_, size) => Some(Window::Count(size)),
    }
}

/// Numbers as the script reads them.
#[must_use]
pub fn spaced(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers
        .into_iter()
        .map(|number| number.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

/// An override as the script reads it; empty without one.
#[must_use]
pub fn forced(forced: Option<Override>) -> String {
    forced.map_or_else(String::new, |forced| {
        format!("{} {}", u8::from(forced.open), forced.expires_at)
    })
}

fn memory(memory: &Memory) -> String {
    spaced([
        memory.generation,
        memory.state,
        memory.remaining_ms,
        memory.round,
        memory.streak,
        memory.last_open_ms,
        memory.lease_remaining_ms,
    ])
}

fn carried(config: &Config) -> String {
    let override_text = config.forced.map_or_else(|| "-1 0".to_owned(), |f| forced(Some(f)));
    format!("{} {override_text} {}", config.revision, spaced(rules(&config.policy)))
}

fn cause_letter(index: u8) -> char {
    char::from(b'A' + index.min(15))
}

/// The arguments of an exchange after the common ones (from `boot` on).
#[must_use]
pub fn exchange_args(request: &Exchange) -> Vec<String> {
    let batch = request.batch.clone().unwrap_or_default();
    let outcomes: String = batch
        .outcomes
        .iter()
        .flat_map(|outcome| {
            [
                char::from(b'0' + outcome.kind.code() as u8),
                cause_letter(outcome.cause),
            ]
        })
        .collect();
    let probes: Vec<String> = batch
        .probes
        .iter()
        .map(|probe| format!("{}:{}{}", probe.lease, probe.kind.code(), cause_letter(probe.cause)))
        .collect();
    vec![
        request.boot.clone(),
        request.memory.as_ref().map_or_else(String::new, memory),
        request.carried.as_ref().map_or_else(String::new, carried),
        u8::from(request.seed).to_string(),
        batch.number.to_string(),
        batch.generation.to_string(),
        outcomes,
        probes.join(","),
        batch.causes.join(" "),
        batch.rejected.to_string(),
        request.gauge.to_string(),
        request.gauge_generation.to_string(),
        u8::from(request.isolated).to_string(),
        request.acquire.map_or(0, |wish| wish.token).to_string(),
        request.acquire.map_or(0, |wish| wish.want).to_string(),
    ]
}

fn state(code: i64) -> StoreResult<State> {
    u64::try_from(code)
        .ok()
        .and_then(State::from_code)
        .ok_or_else(|| broken("an unknown state"))
}

fn reason(code: i64) -> StoreResult<Reason> {
    u64::try_from(code)
        .ok()
        .and_then(Reason::from_code)
        .ok_or_else(|| broken("an unknown reason"))
}

/// The 13 numbers of a view, as in a reply and in an announcement.
///
/// # Errors
/// When they are not such numbers.
pub fn view(numbers: &[i64]) -> StoreResult<View> {
    let n: &[i64; 13] = numbers.try_into().map_err(|_| broken("a view of another length"))?;
    if n.iter().any(|n| n.unsigned_abs() > EXACT) {
        return Err(broken("a number out of range"));
    }
    let at = |index: usize| n[index].max(0) as u64;
    Ok(View {
        generation: at(0),
        state: state(n[1])?,
        reason: reason(n[2])?,
        age_ms: at(3),
        remaining_ms: at(4),
        round: at(5),
        streak: at(6),
        last_open_ms: at(7),
        lease_remaining_ms: at(8),
        ramp_age_ms: u64::try_from(n[9]).ok(),
        mode: mode_of(at(10)),
        revision: at(11),
        seq: at(12),
    })
}

fn text(value: &Value) -> StoreResult<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).map_err(|_| broken("text that is not UTF-8")),
        Value::SimpleString(text) => Ok(text.clone()),
        _ => Err(broken("something else than text")),
    }
}

/// The script's answer to an exchange.
///
/// # Errors
/// When it is not such an answer.
pub fn reply(value: &Value) -> StoreResult<Reply> {
    let Value::Array(items) = value else {
        return Err(broken("a reply that is no list"));
    };
    let numbers: Vec<i64> = items
        .iter()
        .map_while(|item| if let Value::Int(n) = item { Some(*n) } else { None })
        .collect();
    let status = numbers
        .first()
        .copied()
        .and_then(Status::from_code)
        .ok_or_else(|| broken("an unknown status"))?;
    let floor = numbers.get(1).copied().unwrap_or(0).max(0) as u64;
    let mut reply = Reply::empty(status, floor);
    if status != Status::Ok {
        return Ok(reply);
    }
    if numbers.len() != 26 || items.len() < 27 {
        return Err(broken("a reply of another length"));
    }
    if numbers.iter().any(|n| n.unsigned_abs() > EXACT) {
        return Err(broken("a number out of range"));
    }
    let at = |index: usize| numbers[index].max(0) as u64;
    reply.view = Some(view(&numbers[2..15])?);
    (reply.calls, reply.failing, reply.slow) = (at(15), at(16), at(17));
    reply.headroom = u64::try_from(numbers[18]).ok();
    reply.headroom_ms = at(19);
    reply.interval_ms = at(20);
    reply.granted = (at(21), at(22));
    reply.retry_ms = at(23);
    (reply.applied, reply.late) = (at(24), at(25));
    for transition in text(&items[26])?.split(';').filter(|part| !part.is_empty()) {
        let codes: Vec<i64> = transition.split(' ').filter_map(|code| code.parse().ok()).collect();
        let [from, to, why] = codes[..] else {
            return Err(broken("a transition of another length"));
        };
        reply.caused.push((
            if from < 0 { None } else { Some(state(from)?) },
            state(to)?,
            reason(why)?,
        ));
    }
    if let (Some(Value::BulkString(packed)), Some(spec)) = (items.get(27), items.get(28)) {
        let (config, _, _) = packed_config(packed)?;
        let config = config.ok_or_else(|| broken("a tombstone as configuration"))?;
        reply.config = Some(Programmed {
            config,
            spec: text(spec)?,
        });
    }
    Ok(reply)
}

/// One announcement: `T <id> <view>` or `R <id>`.
#[must_use]
pub fn announcement(message: &str) -> Option<crate::store::Announcement> {
    use crate::store::Announcement;
    let mut words = message.split(' ');
    let kind = words.next()?;
    let id = crate::id::ServiceId::parse(words.next()?).ok()?;
    match kind {
        "R" => Some(Announcement::Revision(id)),
        "T" => {
            let numbers: Vec<i64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
            Some(Announcement::Transition(id, view(&numbers).ok()?))
        }
        _ => None,
    }
}

/// The hash field `p`: (configuration or tombstone, floor, whether it is a tombstone).
fn packed_config(bytes: &[u8]) -> StoreResult<(Option<Config>, u64, bool)> {
    let items = unpack(bytes)?;
    let numbers: Vec<i64> = list(&items)?.iter().map(signed).collect::<StoreResult<_>>()?;
    if numbers.len() < 5 {
        return Err(broken("a configuration of another length"));
    }
    let at = |index: usize| numbers[index].max(0) as u64;
    if numbers[1] == 1 {
        return Ok((None, at(2), true));
    }
    let rules: Vec<u64> = (5..numbers.len()).map(at).collect();
    let policy = policy(&rules).ok_or_else(|| broken("rules of another length or without a window"))?;
    let forced = (numbers[3] >= 0).then(|| Override {
        open: numbers[3] == 1,
        expires_at: at(4),
    });
    Ok((
        Some(Config {
            revision: at(0),
            policy,
            forced,
        }),
        at(2),
        false,
    ))
}

/// The config hash.
///
/// # Errors
/// When it is damaged.
pub fn config_row(hash: &HashMap<String, Vec<u8>>) -> StoreResult<Option<ConfigRow>> {
    let Some(packed) = hash.get("p") else { return Ok(None) };
    let (config, floor, _) = packed_config(packed)?;
    let field = |name: &str| {
        hash.get(name)
            .map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let number = |name: &str| field(name).parse().unwrap_or(0);
    Ok(Some(ConfigRow {
        config,
        spec: field("spec"),
        leader: Leader {
            owner: field("owner"),
            created: number("created"),
            transitions: number("transitions"),
        },
        seen_at: number("seen_at"),
        last_reset: field("reset"),
        floor,
    }))
}

fn unpack(mut bytes: &[u8]) -> StoreResult<rmpv::Value> {
    unpack_next(&mut bytes)
}

fn unpack_next(bytes: &mut &[u8]) -> StoreResult<rmpv::Value> {
    rmpv::decode::read_value(bytes).map_err(|_| broken("damaged packed data"))
}

fn list(value: &rmpv::Value) -> StoreResult<&[rmpv::Value]> {
    match value {
        rmpv::Value::Array(items) => Ok(items),
        rmpv::Value::Map(items) if items.is_empty() => Ok(&[]),
        _ => Err(broken("something else than a list")),
    }
}

fn signed(value: &rmpv::Value) -> StoreResult<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|n| n as i64))
        .filter(|n| n.unsigned_abs() <= EXACT)
        .ok_or_else(|| broken("something else than a number in range"))
}

fn number(value: &rmpv::Value) -> StoreResult<u64> {
    Ok(signed(value)?.max(0) as u64)
}

fn string(value: &rmpv::Value) -> StoreResult<String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| broken("something else than text"))
}

fn buckets(value: &rmpv::Value) -> StoreResult<Buckets> {
    let numbers: Vec<u64> = list(value)?.iter().map(number).collect::<StoreResult<_>>()?;
    Ok(Buckets(
        numbers
            .chunks_exact(4)
            .map(|n| {
                (
                    n[0],
                    Sums {
                        calls: n[1],
                        failing: n[2],
                        slow: n[3],
                    },
                )
            })
            .collect(),
    ))
}

fn slots(text: &str) -> StoreResult<Slots> {
    let slot = |bytes: &[u8]| {
        let kind =
            Kind::from_code(u64::from(bytes[0].wrapping_sub(b'A'))).ok_or_else(|| broken("an unknown outcome"))?;
        Ok((
            kind,
            bytes[1..]
                .iter()
                .rev()
                .fold(0, |index, byte| index * 128 + u64::from(*byte)),
        ))
    };
    Ok(Slots(
        text.as_bytes().chunks_exact(5).map(slot).collect::<StoreResult<_>>()?,
    ))
}

/// The numbers in the field `hot` that stand over those of their names in the core.
const HOT: [&str; 11] = [
    "seq", "clk", "sec", "cur", "bef", "swp", "kno", "run", "runat", "gau", "lf",
];

/// The field `hot`: what changes with every decision.
struct Hot<'a> {
    numbers: HashMap<&'static str, u64>,
    /// What the window's newest bucket holds.
    newest: Sums,
    /// The causes noted after the core's.
    recent: &'a str,
    slots: &'a str,
}

impl<'a> Hot<'a> {
    /// 15 doubles, little-endian; then text up to a zero byte; then slots.
    fn read(bytes: &'a [u8]) -> StoreResult<Self> {
        let short = || broken("a short hot part");
        let (packed, rest) = bytes.split_at_checked(15 * 8).ok_or_else(short)?;
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(short)?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| broken("text that is not UTF-8"));
        let numbers: Vec<u64> = packed
            .chunks_exact(8)
            .map(|chunk| {
                let number = f64::from_le_bytes(chunk.try_into().unwrap_or_default());
                signed(&rmpv::Value::F64(number)).map(|number| number.max(0) as u64)
            })
            .collect::<StoreResult<_>>()?;
        Ok(Self {
            numbers: HOT.into_iter().zip(numbers.iter().copied()).collect(),
            newest: Sums {
                calls: numbers[12],
                failing: numbers[13],
                slow: numbers[14],
            },
            recent: text(&rest[..end])?,
            slots: text(&rest[end + 1..])?,
        })
    }
}

/// The data hash; none when there is none, or when its layout is newer than this version.
///
/// # Errors
/// When it is damaged.
pub fn data(hash: &HashMap<String, Vec<u8>>) -> StoreResult<Option<Data>> {
    let Some(packed) = hash.get("core") else {
        return Ok(None);
    };
    let packed = unpack(packed)?;
    let fields: HashMap<&str, &rmpv::Value> = packed
        .as_map()
        .ok_or_else(|| broken("a core that is no map"))?
        .iter()
        .filter_map(|(key, value)| Some((key.as_str()?, value)))
        .collect();
    let field = |name: &str| {
        fields
            .get(name)
            .copied()
            .ok_or_else(|| broken(&format!("a core without {name}")))
    };
    if number(field("v")?)? > LAYOUT {
        return Ok(None);
    }
    // Layout 1 has none: all of it is in the core.
    let hot = hash.get("hot").map(|hot| Hot::read(hot)).transpose()?;
    let n = |name: &str| match hot.as_ref().and_then(|hot| hot.numbers.get(name)) {
        Some(number) => Ok(*number),
        None => number(field(name)?),
    };
    let mut window_buckets = buckets(field("w")?)?;
    let mut recent = string(field("rc")?)?;
    let mut window_slots = string(field("sl")?)?;
    if let Some(hot) = &hot {
        if let Some((_, newest)) = window_buckets.0.last_mut() {
            *newest = hot.newest;
        }
        recent.push_str(hot.recent);
        window_slots = hot.slots.to_owned();
    }
    let forgotten = recent.len().saturating_sub(MAX_RECENT);
    let previous = signed(field("prev")?)?;
    let leases = list(field("ls")?)?
        .chunks_exact(3)
        .map(|part| {
            Ok(Lease {
                id: number(&part[0])?,
                instance: string(&part[1])?,
                deadline: number(&part[2])?,
            })
        })
        .collect::<StoreResult<_>>()?;
    let strings = |name: &str| list(field(name)?)?.iter().map(string).collect::<StoreResult<Vec<_>>>();
    let core = Core {
        seq: n("seq")?,
        generation: n("gen")?,
        state: state(signed(field("st")?)?)?,
        reason: reason(signed(field("why")?)?)?,
        since: n("since")?,
        open_until: n("till")?,
        last_open_ms: n("lo")?,
        round: n("rnd")?,
        streak: n("strk")?,
        clock: n("clk")?,
        offset: n("off")?,
        transitions: n("trs")?,
        previous: if previous < 0 { None } else { Some(state(previous)?) },
        mode: mode_of(n("mode")?),
        ramp_from: n("ramp")?,
        window: window(n("wt")?, n("wl")?).ok_or_else(|| broken("a window without a length"))?,
        window_id: n("wid")?,
        revision: n("rev")?,
        buckets: window_buckets,
        slots: slots(&window_slots)?,
        run: n("run")?,
        run_at: n("runat")?,
        run_instances: strings("runby")?,
        gauge: n("gau")?,
        frozen: n("frz")?,
        last_failure: n("lf")?,
        granted_at: n("ga")?,
        permitted: n("per")?,
        finished: n("fin")?,
        failed: n("bad")?,
        slow: n("slo")?,
        next_lease: n("nl")?,
        leases,
        causes: strings("cz")?,
        recent: recent
            .bytes()
            .skip(forgotten)
            .map(|letter| letter.saturating_sub(b'A'))
            .collect(),
        shadow_trips: n("sht")?,
        shadow_last_trip: n("shl")?,
        shadow_rejected: n("shr")?,
        second: n("sec")?,
        in_second: n("cur")?,
        before: n("bef")?,
        swept_at: n("swp")?,
        leapt_at: n("lp")?,
        known: n("kno")?,
        next_index: n("nix")?,
        last_trip: string(field("trip")?)?,
    };
    let mut instances = BTreeMap::new();
    let mut boots = BTreeMap::new();
    for (name, bytes) in hash {
        if let Some(instance) = name.strip_prefix("i:") {
            instances.insert(instance.to_owned(), record(bytes)?);
        } else if let Some(boot) = name.strip_prefix("b:") {
            boots.insert(boot.to_owned(), marker(&unpack(bytes)?)?);
        }
    }
    Ok(Some(Data { core, instances, boots }))
}

fn record(mut bytes: &[u8]) -> StoreResult<Record> {
    let value = unpack_next(&mut bytes)?;
    let [index, seen, gauge, generation, isolated, rejected, window_id, rest @ ..] = list(&value)? else {
        return Err(broken("an instance of another length"));
    };
    let window = match rest {
        // Layout 1.
        [window] => buckets(window)?,
        [calls, failing, slow] => {
            let mut window = buckets(&unpack_next(&mut bytes)?)?;
            if let Some((_, newest)) = window.0.last_mut() {
                *newest = Sums {
                    calls: number(calls)?,
                    failing: number(failing)?,
                    slow: number(slow)?,
                };
            }
            window
        }
        _ => return Err(broken("an instance of another length")),
    };
    Ok(Record {
        index: number(index)?,
        seen: number(seen)?,
        gauge: number(gauge)?,
        gauge_generation: number(generation)?,
        isolated: number(isolated)?,
        rejected_at: number(rejected)?,
        window_id: number(window_id)?,
        buckets: window,
    })
}

fn marker(value: &rmpv::Value) -> StoreResult<Marker> {
    let [at, batch, token, generation, first, count] = list(value)? else {
        return Err(broken("a marker of another length"));
    };
    Ok(Marker {
        at: number(at)?,
        number: number(batch)?,
        token: number(token)?,
        generation: number(generation)?,
        first: number(first)?,
        count: number(count)?,
    })
}

/// One entry of the stream.
///
/// # Errors
/// When it is damaged.
pub fn event(fields: &HashMap<String, String>) -> StoreResult<Event> {
    let field = |name: &str| {
        fields
            .get(name)
            .cloned()
            .ok_or_else(|| broken(&format!("an event without {name}")))
    };
    let number = |name: &str| {
        field(name)?
            .parse::<i64>()
            .map_err(|_| broken(&format!("an event with a bad {name}")))
    };
    let from = number("from")?;
    Ok(Event {
        generation: number("generation")?.max(0) as u64,
        from: if from < 0 { None } else { Some(state(from)?) },
        to: state(number("to")?)?,
        reason: reason(number("reason")?)?,
        at: number("at")?.max(0) as u64,
        instance: field("instance")?,
        snapshot: field("snapshot")?,
    })
}
