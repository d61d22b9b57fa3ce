//! Service ids: validated once, here, before they become part of a key.

use std::fmt;

/// The longest name or namespace, in bytes (Kubernetes' limit for a DNS subdomain).
pub const MAX_NAME_BYTES: usize = 253;

/// `<namespace>/<name>` or a bare `<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(String);

/// Why a text is not a service id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidServiceId(String);

impl fmt::Display for InvalidServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a service id; wanted NAME or NAMESPACE/NAME, each of a-z, 0-9, '-', '.' and '_', \
             beginning and ending with a letter or digit, at most {MAX_NAME_BYTES} long",
            self.0
        )
    }
}

impl std::error::Error for InvalidServiceId {}

impl ServiceId {
    /// Parses `NAME` or `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When a part is empty, too long, or holds a character that could be mistaken inside a key.
    pub fn parse(text: &str) -> Result<Self, InvalidServiceId> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
            return Err(InvalidServiceId(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as it stands in keys, labels and URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ServiceId {
    type Err = InvalidServiceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn is_name(part: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    (1..=MAX_NAME_BYTES).contains(&bytes.len())
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && bytes.iter().all(|&byte| alphanumeric(byte) || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_and_a_namespaced_one_are_ids() {
        for text in ["unreliable_service", "shop/inventory", "a", "0.b-c_d"] {
            assert_eq!(ServiceId::parse(text).map(|id| id.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_could_break_out_of_a_key_is_refused() {
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for text in [
            "", "/", "a/", "/a", "a/b/c", "a:b", "{a}", "a b", "A", "-a", "a.", "a\n", "é", &long,
        ] {
            assert!(ServiceId::parse(text).is_err(), "{text:?} must be refused");
        }
    }
}
