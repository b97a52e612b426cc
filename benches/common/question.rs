//! The questions that are asked: what Postfix 3.7 sends, all attributes in its order, and fields
//! that change from one question to the next written in place, so that making a question costs the
//! load generator next to nothing.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many senders ask; all of them are in the allowlist.
pub const SENDERS: u64 = 1_000;

/// The domains that the senders are spread over.
pub const SENDER_DOMAINS: u64 = 100;

/// How many clients ask.
pub const CLIENTS: u64 = 100_000;

/// How many recipients are asked about; none of them is suppressed.
pub const RECIPIENTS: u64 = 4_000_000;

/// Which question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At RCPT, `policy_context=recipient`: the suppression list.
    Rcpt,
    /// At RCPT, without a policy_context: allowlist and suppression list.
    RcptPlain,
    /// At DATA, `policy_context=data`: the limits.
    Data,
    /// At DATA, without a policy_context: the limits.
    DataPlain,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Rcpt, Self::RcptPlain, Self::Data, Self::DataPlain];

    /// The word on the command line and in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rcpt => "rcpt",
            Self::RcptPlain => "rcpt-plain",
            Self::Data => "data",
            Self::DataPlain => "data-plain",
        }
    }

    fn context(self) -> &'static str {
        match self {
            Self::Rcpt => "recipient",
            Self::Data => "data",
            Self::RcptPlain | Self::DataPlain => "",
        }
    }

    fn at_data(self) -> bool {
        matches!(self, Self::Data | Self::DataPlain)
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(())
    }
}

/// The sender of a number below [`SENDERS`].
pub fn sender(n: u64) -> String {
    format!("user{n:03}@s{:02}.example.com", n % SENDER_DOMAINS)
}

/// One question in full, about this sender and recipient.
pub fn text(kind: Kind, context: &str, sender: &str, recipient: &str, client: &str, instance: &str) -> String {
    let (state, count, queue_id) = if kind.at_data() { ("DATA", 1, "4ZabcD1Yxz1") } else { ("RCPT", 0, "") };
    format!(
        "request=smtpd_access_policy\nprotocol_state={state}\nprotocol_name=ESMTP\nclient_address={client}\n\
         client_name=app.internal.example.com\nclient_port=41234\nreverse_client_name=app.internal.example.com\n\
         server_address=10.0.0.25\nserver_port=25\nhelo_name=app.internal.example.com\nsender={sender}\n\
         recipient={recipient}\nrecipient_count={count}\nqueue_id={queue_id}\ninstance={instance}\nsize=20480\n\
         etrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n\
         ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n\
         encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context={context}\n\n"
    )
}

/// An endless row of questions, all different, all of one kind.
#[derive(Debug)]
pub struct Questions {
    text: Vec<u8>,
    sender: [Field; 2],
    recipient: [Field; 2],
    client: [Field; 3],
    instance: Field,
    asked: u64,
    seed: u64,
}

/// A number of fixed width in the text.
#[derive(Clone, Copy, Debug)]
struct Field {
    at: usize,
    width: usize,
}

impl Questions {
    /// Questions of one of several threads of this process; no `instance` comes twice.
    pub fn new(kind: Kind, thread: usize) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let instance = format!("{:x}.{seconds:x}.{}.{thread:x}", std::process::id(), "!".repeat(8));
        // Each run of one mark is a field, found below by its mark.
        let text = text(
            kind,
            kind.context(),
            "user###@s$$.example.com",
            "rcpt%%%%%%%@r&&&&.example.org",
            "10.1~~.1^^.1``",
            &instance,
        );
        let text = text.into_bytes();
        let field = |mark: u8| {
            let at = text.iter().position(|b| *b == mark).unwrap_or(0);
            Field { at, width: text.iter().filter(|b| **b == mark).count() }
        };
        Self {
            sender: [field(b'#'), field(b'$')],
            recipient: [field(b'%'), field(b'&')],
            client: [field(b'~'), field(b'^'), field(b'`')],
            instance: field(b'!'),
            asked: 0,
            seed: (u64::from(std::process::id()) << 40) ^ (seconds << 8) ^ thread as u64,
            text,
        }
    }

    /// The next question; a new message each time.
    pub fn next(&mut self) -> &[u8] {
        self.asked += 1;
        let random = mix(self.seed.wrapping_add(self.asked));
        let (sender, client, recipient) = (random % SENDERS, (random >> 12) % CLIENTS, (random >> 32) % RECIPIENTS);
        self.write(self.sender[0], sender);
        self.write(self.sender[1], sender % SENDER_DOMAINS);
        self.write(self.recipient[0], recipient);
        self.write(self.recipient[1], recipient % 10_000);
        self.write(self.client[0], client / 10_000);
        self.write(self.client[1], client / 100 % 100);
        self.write(self.client[2], client % 100);
        self.write(self.instance, self.asked);
        &self.text
    }

    fn write(&mut self, field: Field, mut n: u64) {
        for digit in self.text[field.at..field.at + field.width].iter_mut().rev() {
            *digit = b'0' + (n % 10) as u8;
            n /= 10;
        }
    }
}

/// SplitMix64's finaliser: neighbouring numbers become unrelated ones.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
