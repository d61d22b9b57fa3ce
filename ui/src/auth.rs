//! Who is asking.
//!
//! Three ways: nobody needs to say (reading only, unless the dashboard is local), a bearer token, or a header of a proxy
//! that has signed the person in. A browser's token travels in a cookie that scripts cannot read and other sites cannot
//! cause to be sent; rejected: sessions kept here, which a restart or a second replica would not know.

use crate::guesses::Guesses;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use subtle::ConstantTimeEq as _;

/// The cookie of a browser's token.
pub(crate) const COOKIE_NAME: &str = "tiebar_token";
/// A token shorter than this can be guessed.
const MIN_TOKEN: usize = 16;
/// Longer ones are not even compared.
const MAX_TOKEN: usize = 4_096;

/// How people prove who they are.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Not at all.
    None,
    /// By a token out of a file, read again at each use: one `NAME TOKEN` a line.
    Token(PathBuf),
    /// By a proxy that has signed them in.
    Proxy {
        /// The header with the name.
        header: HeaderName,
        /// Where the proxy's connections may come from.
        sources: Vec<IpNet>,
    },
    /// By a token that the cluster reviews.
    #[cfg(feature = "kubernetes")]
    Review(crate::kubernetes::Kubernetes),
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// None: nobody said.
    pub(crate) name: Option<String>,
    /// What a cluster grants rights by.
    pub(crate) groups: Vec<String>,
}

/// Why somebody is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A token would help.
    NoToken,
    /// This one does not.
    WrongToken,
    /// It was not even looked at: too many from there were wrong. How long to wait.
    TooManyTokens(Duration),
    /// The connection does not come from the proxy, or the proxy did not say who it is.
    NotThroughProxy,
    /// The one to ask does not answer.
    Unavailable(String),
}

impl Person {
    pub(crate) fn anonymous() -> Self {
        Self {
            name: None,
            groups: Vec::new(),
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            groups: Vec::new(),
        }
    }
}

impl Auth {
    /// Tells who a request comes from.
    pub(crate) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        guesses: &Guesses,
    ) -> Result<Person, Refused> {
        match self {
            Self::None => Ok(Person::anonymous()),
            Self::Proxy { header, sources } => {
                let peer = peer.to_canonical();
                let name = headers.get(header).and_then(|value| value.to_str().ok()).map(str::trim);
                let one = headers.get_all(header).iter().count() == 1;
                match name {
                    Some(name) if one && !name.is_empty() && sources.iter().any(|net| net.contains(&peer)) => {
                        Ok(Person::named(name))
                    }
                    _ => Err(Refused::NotThroughProxy),
                }
            }
            _ => match token(headers) {
                None => Err(Refused::NoToken),
                Some(token) => self.owner(&token, peer, guesses).await,
            },
        }
    }

    /// Whose token this is; wrong ones are counted against where they come from.
    pub(crate) async fn owner(&self, token: &str, peer: IpAddr, guesses: &Guesses) -> Result<Person, Refused> {
        let heard = || {
            guesses
                .wait(peer)
                .map_or(Ok(()), |wait| Err(Refused::TooManyTokens(wait)))
        };
        heard()?;
        #[cfg(feature = "kubernetes")]
        if let Self::Review(cluster) = self
            && let Some(person) = cluster.remembered(token)
        {
            return Ok(person);
        }
        let _turn = guesses.turn().await;
        // While it waited, others from there may have been wrong.
        heard()?;
        let found = self.look_up(token).await;
        if found == Err(Refused::WrongToken) {
            guesses.wrong(peer, token);
        }
        found
    }

    async fn look_up(&self, token: &str) -> Result<Person, Refused> {
        match self {
            Self::Token(file) => {
                let text = tokio::fs::read_to_string(file)
                    .await
                    .map_err(|error| Refused::Unavailable(format!("{}: {error}", file.display())))?;
                let known = parse_tokens(&text).map_err(Refused::Unavailable)?;
                find(&known, token)
                    .map(|name| Person::named(&name))
                    .ok_or(Refused::WrongToken)
            }
            #[cfg(feature = "kubernetes")]
            Self::Review(cluster) => cluster.review(token).await,
            Self::None | Self::Proxy { .. } => Err(Refused::WrongToken),
        }
    }

    /// Where somebody without a token gets one.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Token(_) => "Whoever runs this dashboard gives tokens out (--auth-token-file).",
            #[cfg(feature = "kubernetes")]
            Self::Review(_) => "Any token this cluster knows, such as `kubectl create token NAME` prints.",
            Self::None | Self::Proxy { .. } => "",
        }
    }

    /// Whether there is a page to sign in.
    pub(crate) fn has_login(&self) -> bool {
        !matches!(self, Self::None | Self::Proxy { .. })
    }
}

/// The token of a header or of the cookie.
fn token(headers: &HeaderMap) -> Option<String> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(bearer) = bearer {
        let (scheme, token) = bearer.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, token)| token.to_owned())
}

/// A token that may stand in a header and in a cookie.
pub(crate) fn is_token(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(fits)
}

/// Reads `NAME TOKEN` lines; a token alone belongs to `token`; empty lines and those with `#` are skipped.
///
/// # Errors
/// The number of a bad line, without what it says: it may be half a secret.
pub fn parse_tokens(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut known = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, token) = match words[..] {
            [] => continue,
            [first, ..] if first.starts_with('#') => continue,
            [token] => ("token", token),
            [name, token] => (name, token),
            _ => return Err(format!("line {} is neither TOKEN nor NAME TOKEN", index + 1)),
        };
        if token.len() < MIN_TOKEN || !is_token(token) {
            return Err(format!(
                "line {}: wanted a token of {MIN_TOKEN} to {MAX_TOKEN} letters, digits and -._~+/=",
                index + 1
            ));
        }
        known.push((name.to_owned(), token.to_owned()));
    }
    if known.is_empty() {
        return Err("there is no token in it".to_owned());
    }
    Ok(known)
}

/// Compares with every token, each in constant time, so that time tells neither which nor how much of it fits.
fn find(known: &[(String, String)], token: &str) -> Option<String> {
    let mut found = None;
    for (name, expected) in known {
        if bool::from(expected.as_bytes().ct_eq(token.as_bytes())) {
            found = Some(name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_line_by_line_and_a_bad_line_is_not_repeated() {
        let known = parse_tokens("# people\n\nanna 0123456789abcdef\n0123456789ABCDEF\n").unwrap();
        assert_eq!(known[0].0, "anna");
        assert_eq!(known[1].0, "token");
        assert_eq!(find(&known, "0123456789abcdef").as_deref(), Some("anna"));
        assert_eq!(find(&known, "0123456789abcde"), None);
        for bad in ["", "anna secret", "a b c", "anna 0123456789abc;ef"] {
            let error = parse_tokens(bad).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("abc;"), "{error}");
        }
    }

    #[test]
    fn a_token_comes_by_header_or_cookie_and_the_header_wins() {
        let headers = |pairs: &[(HeaderName, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(name.clone(), value.parse().unwrap());
            }
            map
        };
        let of = |pairs: &[(HeaderName, &str)]| token(&headers(pairs));
        assert_eq!(of(&[(AUTHORIZATION, "Bearer abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[(COOKIE, "a=b; tiebar_token=abc")]).as_deref(), Some("abc"));
        assert_eq!(of(&[(AUTHORIZATION, "Basic abc"), (COOKIE, "tiebar_token=abc")]), None);
        assert_eq!(of(&[]), None);
    }
}
