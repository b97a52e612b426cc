//! The names of everything that a fleet keeps in the store. All of them carry one hash tag, so that a cluster has
//! them in one slot, where scripts and transactions may touch them together
//! (<https://valkey.io/topics/cluster-spec/>, "Hash tags").

/// The names below one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Names for a namespace of letters, digits, `_`, `-` and `.`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { prefix: format!("{{{namespace}}}:") }
    }

    /// The name of a single thing, such as `entries`.
    #[must_use]
    pub fn of(&self, thing: &str) -> String {
        format!("{}{thing}", self.prefix)
    }

    /// The beginning of every name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_slot() {
        let keys = Keys::new("mail");
        assert_eq!((keys.prefix(), keys.of("entries").as_str()), ("{mail}:", "{mail}:entries"));
    }
}
