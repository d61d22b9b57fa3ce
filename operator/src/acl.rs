//! The least rights in Redis for each role, as the lines of an ACL file.
//!
//! The commands are what the store sends and what its function calls on the caller's behalf; a test runs every operation
//! as these users, and another compares the function's text with this list. What Redis cannot tell apart: a caller of the
//! function may call any of its operations, so an instance's user could program a breaker.

use std::fmt::Write as _;
use tiebar::redis::{KeyStyle, Keys};

/// What the function calls.
const FUNCTION: [&str; 14] = [
    "del", "hdel", "hget", "hgetall", "hkeys", "hlen", "hmget", "hset", "persist", "pexpire", "publish", "set", "time",
    "xadd",
];

/// What every connection sends: behind Sentinels it asks for the server's rank, as the dashboard always does.
const CONNECTION: [&str; 3] = ["ping", "role", "subscribe"];
/// What a cluster needs beside that: its map, and channels by shard.
const CLUSTER: [&str; 4] = ["asking", "cluster|slots", "readonly", "ssubscribe"];

/// One role.
struct Role {
    name: &'static str,
    what: &'static str,
    /// Beside the function's.
    commands: &'static [&'static str],
    calls_function: bool,
}

const ROLES: [Role; 3] = [
    Role {
        name: "tiebar-operator",
        what: "programs breakers and reads their state",
        commands: &["info", "sadd", "smembers", "srem", "xrevrange"],
        calls_function: true,
    },
    Role {
        name: "tiebar-instance",
        what: "records outcomes, asks for probes, beats",
        commands: &["sadd"],
        calls_function: true,
    },
    Role {
        name: "tiebar-dashboard",
        what: "reads, and nothing else",
        commands: &["hgetall", "smembers", "time", "xrevrange"],
        calls_function: false,
    },
];

/// The lines, with `PASSWORD` where one belongs.
#[must_use]
pub fn acl(keys: &Keys) -> String {
    let prefix = keys.prefix();
    let on_cluster = keys.style() == KeyStyle::HashTag;
    // On a cluster each breaker has a channel of its own.
    let channels = if on_cluster {
        format!("{prefix}*")
    } else {
        keys.channel()
    };
    let mut text = String::new();
    for role in ROLES {
        let _ = writeln!(text, "# {}", role.what);
        let access = if role.calls_function { "~" } else { "%R~" };
        let _ = write!(
            text,
            "user {} on >PASSWORD resetkeys {access}{prefix}* resetchannels &{channels} -@all",
            role.name
        );
        let mut commands: Vec<&str> = [role.commands, &CONNECTION].concat();
        if role.calls_function {
            commands.extend(["fcall", "function|load"]);
            commands.extend(FUNCTION);
        }
        if on_cluster {
            commands.extend(CLUSTER);
            if role.calls_function {
                commands.push("spublish");
            }
        }
        commands.sort_unstable();
        for command in commands {
            let _ = write!(text, " +{command}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_function_calls_what_is_listed_and_nothing_else() {
        let called: BTreeSet<String> = tiebar::redis::SCRIPT
            .split("call('")
            .skip(1)
            .filter_map(|rest| Some(rest.split('\'').next()?.to_lowercase()))
            .chain(["publish".to_owned()])
            .collect();
        let listed: BTreeSet<String> = FUNCTION.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(called, listed);
    }
}
