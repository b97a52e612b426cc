//! Random tables and senders, drawn from few enough words that they often meet.

use std::collections::HashSet;
use std::fmt::Write;

/// SplitMix64: the same numbers from the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn some(&mut self, from: &[&'static str], n: usize) -> Vec<&'static str> {
        (0..n).map(|_| self.pick(from)).collect()
    }
}

const DOMAINS: [&str; 13] = [
    "one.example",
    "sub.one.example",
    "deep.sub.one.example",
    "two.test",
    "x.two.test",
    "example",
    "test",
    "origin.example",
    "relay",
    "a-b_c.example",
    "[192.0.2.7]",
    "[IPv6:2001:db8::7]",
    "m\u{fc}nchen.example",
];

/// As a client writes them.
const LOCALS: [&str; 35] = [
    "\"\"",
    "info",
    "info+x",
    "info+x+y",
    "info-x",
    "info-x+y",
    "+x",
    "root",
    "postmaster",
    "postmaster+a",
    "owner-list",
    "list-request",
    "-request",
    "mailer-daemon",
    "mailer-daemon+x",
    "double-bounce",
    "o'brien",
    "\"a b\"",
    "\"a b+c\"",
    "\"a+b c\"",
    "a\\ b",
    "\"info\"",
    "\"in\\fo\"",
    "\"a,b\"",
    "\"a@b\"",
    "\"a\\\"b\"",
    "\"a\\\\b\"",
    "a..b",
    ".a",
    "a.",
    "a.+b",
    "m\u{fc}ller",
    "m\u{fc}ller+x",
    "a%b",
    "a!b",
];

/// What one table and its senders are made of.
pub struct World {
    domains: Vec<&'static str>,
    locals: Vec<&'static str>,
}

impl World {
    pub fn new(random: &mut Random) -> Self {
        Self { domains: random.some(&DOMAINS, 4), locals: random.some(&LOCALS, 6) }
    }

    fn domain(&self, random: &mut Random) -> &'static str {
        if random.below(8) == 0 { random.pick(&DOMAINS) } else { random.pick(&self.domains) }
    }

    fn local(&self, random: &mut Random) -> &'static str {
        if random.below(8) == 0 { random.pick(&LOCALS) } else { random.pick(&self.locals) }
    }

    /// An access(5) text; entries say which line they are.
    pub fn table(&self, random: &mut Random) -> String {
        let (mut text, mut keys, mut line) = ("# a table\n".to_owned(), HashSet::new(), 1);
        for _ in 0..4 + random.below(12) {
            let pattern = self.pattern(random);
            // texthash: refuses a file with equal keys as a whole.
            if !keys.insert(pattern.to_ascii_lowercase()) {
                continue;
            }
            line += 1;
            let pattern = mixed_case(random, &pattern);
            let action = action(random, line);
            match random.below(10) {
                0 => {
                    let _ = write!(text, "# about the next\n{pattern}\t{action}\n");
                    line += 1;
                }
                1 => {
                    let _ = write!(text, "{pattern}\n# in between\n\n   {action}  \n");
                    line += 3;
                }
                _ => {
                    let _ = writeln!(text, "{pattern} {action}");
                }
            }
        }
        text
    }

    fn pattern(&self, random: &mut Random) -> String {
        let (local, domain) = (self.local(random), self.domain(random));
        match random.below(20) {
            0..8 => format!("{}@{domain}", key_of(local)),
            8..12 => domain.to_owned(),
            12..14 => format!(".{}", domain.trim_matches(['[', ']'])),
            14 => format!("{}@", key_of(local)),
            15 => format!("{}@", local.split(['+', '-', '"']).next().filter(|l| !l.is_empty()).unwrap_or("info")),
            16 => "<>".to_owned(),
            // Unquoted, as Postfix tries it second.
            17 if random.below(2) == 0 => format!("a,b@{domain}"),
            // What an extension could leave, where Postfix splits one off.
            17 => {
                format!("{}@{domain}", local.split(['+', '-', '"']).next().filter(|l| !l.is_empty()).unwrap_or("\"\""))
            }
            // These never match.
            18 => random.pick(&["root", "info%one.example", "one.example!info", "10.0.0.1"]).to_owned(),
            _ => format!("{local}@{domain}."),
        }
    }

    /// A sender as a client writes it between the angle brackets.
    pub fn sender(&self, random: &mut Random) -> String {
        let (local, domain) = (self.local(random), self.domain(random));
        let other = self.domain(random);
        let text = match random.below(24) {
            0..11 => format!("{local}@{domain}"),
            11 | 12 => format!("{local}@sub.{domain}"),
            13 => format!("{local}@{domain}."),
            14 => format!("@r.example:{local}@{domain}"),
            15 => format!("@r.example,@s.example:{local}@{domain}"),
            16 => local.to_owned(),
            17 => format!("{local}%{domain}"),
            18 => format!("{domain}!{local}"),
            19 => format!("{local}%{domain}@{other}"),
            20 => format!("{domain}!{local}@{other}"),
            21 => format!("\"{}@{domain}\"@{other}", local.replace(['"', '\\'], "")),
            22 => format!("{domain}!{local}%{other}"),
            _ => String::new(),
        };
        mixed_case(random, &text)
    }
}

/// The local part as a table has it: quoted as Postfix quotes it.
fn key_of(local: &str) -> &str {
    match local {
        "a\\ b" => "\"a b\"",
        "a..b" => "\"a..b\"",
        ".a" => "\".a\"",
        "a.+b" => "\"a.\"",
        other => other,
    }
}

/// Which entry matched can be told from most of them.
fn action(random: &mut Random, line: u32) -> String {
    match random.below(20) {
        0 => "OK".to_owned(),
        1 => "relay".to_owned(),
        2 => "DUNNO".to_owned(),
        3 => "reject".to_owned(),
        4 => format!("REJECT entry{line}"),
        5 => format!("REJECT 5.7.8 entry{line}"),
        6 => "12345".to_owned(),
        7 => format!("450 4.7.0 entry{line}"),
        8 => format!("DEFER 4.7.5 entry{line}"),
        _ => format!("550 5.7.0 entry{line}"),
    }
}

/// ASCII letters only: beyond ASCII case is a difference on purpose.
fn mixed_case(random: &mut Random, text: &str) -> String {
    match random.below(4) {
        0 => text.to_ascii_uppercase(),
        1 => text.chars().map(|c| if random.below(2) == 0 { c.to_ascii_uppercase() } else { c }).collect(),
        _ => text.to_owned(),
    }
}
