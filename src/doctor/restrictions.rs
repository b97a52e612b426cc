//! Postfix's lists of restrictions and milters, as text: words between blanks and commas, services in braces. Pure.

use std::collections::HashMap;
use std::fmt;

/// One element of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// A word, such as `permit_mynetworks`, or an argument of one.
    Word(String),
    /// `{ address, name=value, … }`, or a bare address behind `check_policy_service`.
    Service(Service),
}

/// A policy service or milter with its own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `unix:…`, `inet:…`.
    pub address: String,
    /// `name=value`.
    pub settings: HashMap<String, String>,
    text: String,
}

/// How deep classes may name classes: Postfix's own bound is its stack.
const MAX_DEPTH: usize = 16;

/// The word before a policy service.
pub const POLICY_SERVICE: &str = "check_policy_service";

impl Element {
    /// The word; empty for a service.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Service(_) => "",
        }
    }

    /// Whether it can end the list with "yes" before what follows is asked.
    #[must_use]
    pub fn permits(&self) -> bool {
        let word = self.word();
        word == "permit" || word.starts_with("permit_")
    }

    /// Whether it ends the list with "no" for everybody.
    #[must_use]
    pub fn refuses_all(&self) -> bool {
        matches!(self.word(), "reject" | "defer")
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Service(service) => f.write_str(&service.text),
        }
    }
}

/// The elements of a list of restrictions. `class` gives the text of a restriction class, which stands in its place.
#[must_use]
pub fn restrictions(text: &str, class: &dyn Fn(&str) -> Option<String>) -> Vec<Element> {
    let mut elements = Vec::new();
    expand(text, class, 0, &mut elements);
    elements
}

/// The milters of a list.
#[must_use]
pub fn milters(text: &str) -> Vec<Service> {
    tokens(text).iter().map(|token| service(token)).collect()
}

/// The list as one line, fit for main.cf.
#[must_use]
pub fn written(elements: &[Element]) -> String {
    let mut line = String::new();
    for (n, element) in elements.iter().enumerate() {
        // A service is the argument of the word before it.
        let between = match (n, element) {
            (0, _) => "",
            (_, Element::Service(_)) => " ",
            (_, Element::Word(word)) if is_argument(word) => " ",
            _ => ", ",
        };
        line.push_str(between);
        line.push_str(&element.to_string());
    }
    line
}

/// Tables, domains and numbers stand behind a restriction, and are none.
fn is_argument(word: &str) -> bool {
    word.contains([':', '/', '.', '=']) || word.bytes().all(|b| b.is_ascii_digit())
}

fn expand(text: &str, class: &dyn Fn(&str) -> Option<String>, depth: usize, elements: &mut Vec<Element>) {
    let mut is_service = false;
    for token in tokens(text) {
        if is_service || token.starts_with('{') {
            elements.push(Element::Service(service(&token)));
            is_service = false;
            continue;
        }
        is_service = token.eq_ignore_ascii_case(POLICY_SERVICE);
        match class(&token).filter(|_| depth < MAX_DEPTH) {
            Some(text) => expand(&text, class, depth + 1, elements),
            None => elements.push(Element::Word(token)),
        }
    }
}

/// `{ address, name=value, { name = value } }`, or the address alone.
fn service(token: &str) -> Service {
    let inner = token.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    let Some(inner) = inner else {
        return Service { address: token.to_owned(), text: token.to_owned(), ..Service::default() };
    };
    let mut words = tokens(inner).into_iter();
    let address = words.next().unwrap_or_default();
    let setting = |word: String| {
        let word = word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(&word);
        let (name, value) = word.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    Service { address, settings: words.filter_map(setting).collect(), text: token.to_owned() }
}

/// Words between blanks and commas; what stands in braces is one.
fn tokens(text: &str) -> Vec<String> {
    let (mut found, mut word, mut depth) = (Vec::new(), String::new(), 0usize);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c.is_whitespace() || c == ',') {
            found.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    found.push(word);
    found.retain(|word| !word.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<Element> {
        restrictions(text, &|name| (name == "ours").then(|| "check_policy_service inet:h:1, reject".to_owned()))
    }

    #[test]
    fn lists_are_read_and_written() {
        let text = "reject_unauth_pipelining,\n  check_policy_service { unix:a/b, timeout=5s, { policy_context = data } }, \
                    check_client_access hash:/x sleep 5, permit";
        let elements = read(text);
        let words: Vec<_> = elements.iter().map(Element::word).collect();
        let expected =
            ["reject_unauth_pipelining", POLICY_SERVICE, "", "check_client_access", "hash:/x", "sleep", "5", "permit"];
        assert_eq!(words, expected);
        let Element::Service(service) = &elements[2] else { panic!("{elements:?}") };
        assert_eq!(service.address, "unix:a/b");
        assert_eq!((&*service.settings["timeout"], &*service.settings["policy_context"]), ("5s", "data"));
        assert_eq!(
            written(&elements),
            "reject_unauth_pipelining, check_policy_service { unix:a/b, timeout=5s, { policy_context = data } }, \
             check_client_access hash:/x, sleep 5, permit"
        );
    }

    #[test]
    fn classes_are_read_in_their_place() {
        let words: Vec<_> = read("permit_mynetworks ours").iter().map(ToString::to_string).collect();
        assert_eq!(words, ["permit_mynetworks", POLICY_SERVICE, "inet:h:1", "reject"]);
        // A class that names itself ends.
        assert!(!restrictions("a", &|name| (name == "a").then(|| "a".to_owned())).is_empty());
    }

    #[test]
    fn milters_are_read() {
        let found =
            milters("inet:localhost:1, { unix:gatepost/milter.sock, connect_timeout=5s,  default_action=accept }");
        assert_eq!(found[0].address, "inet:localhost:1");
        assert_eq!(found[1].settings["default_action"], "accept");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(text in "[{}=, a-z:]{0,60}") {
            let _ = read(&text);
            let _ = milters(&text);
        }
    }
}
