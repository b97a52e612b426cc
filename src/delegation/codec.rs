//! The wire format of a policy request: `name=value` lines, each ended by LF, the whole ended by an
//! empty line (SMTPD_POLICY_README, "Protocol description"). Pure: bytes in, a borrowed request
//! out; the same function serves socket, test and fuzzer. Values may hold `=` and any byte but LF;
//! unknown attributes are passed over; of a repeated one the last counts.

use memchr::{memchr, memmem};

/// The longest request, in bytes. Postfix sends some 30 attributes, and bounds what a client can put
/// into one by its line length limit of 2,048 bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The most attributes of one request: Postfix 3.12 sends 34; room for many more to come.
pub const MAX_ATTRIBUTES: usize = 256;

/// One policy request; the fields that gatepost reads. What is absent is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// In which state of the SMTP session Postfix asks.
    pub state: State,
    /// The envelope sender in internal form; empty: the null sender, or none yet.
    pub sender: &'a [u8],
    /// The recipient in internal form; at DATA and END-OF-MESSAGE only where there is exactly one.
    pub recipient: &'a [u8],
    /// How many recipients were accepted; 0 before DATA.
    pub recipient_count: u32,
    /// The client's address as text.
    pub client_address: &'a [u8],
    /// The SASL user.
    pub sasl_username: &'a [u8],
    /// The same for all questions about one message over one connection; empty before MAIL.
    pub instance: &'a [u8],
    /// Empty until the first recipient was accepted.
    pub queue_id: &'a [u8],
    /// `policy_context=` of the check_policy_service line (Postfix 3.1).
    pub policy_context: &'a [u8],
}

/// The protocol states of SMTPD_POLICY_README; BDAT is reported as DATA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// `MAIL`
    Mail,
    /// `RCPT`
    Rcpt,
    /// `DATA`
    Data,
    /// `END-OF-MESSAGE`
    EndOfMessage,
    /// `CONNECT`, `EHLO`, `HELO`, `VRFY`, `ETRN`, or one that is not known yet.
    #[default]
    Other,
}

impl State {
    fn parse(value: &[u8]) -> Self {
        match value {
            b"MAIL" => Self::Mail,
            b"RCPT" => Self::Rcpt,
            b"DATA" => Self::Data,
            b"END-OF-MESSAGE" => Self::EndOfMessage,
            _ => Self::Other,
        }
    }
}

/// Why a peer's bytes are no policy request. The connection is closed and nothing answered, as the
/// protocol asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No end within [`MAX_REQUEST_BYTES`].
    #[error("request longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_ATTRIBUTES`].
    #[error("request with more than {MAX_ATTRIBUTES} attributes")]
    TooManyAttributes,
    /// A line without a name, or without `=`.
    #[error("line {0} of the request is not name=value")]
    NotAnAttribute(usize),
    /// `request=` is missing or not `smtpd_access_policy`.
    #[error("not a request=smtpd_access_policy")]
    NotAPolicyRequest,
}

/// Reads the first request of `bytes`: the request and its length, or `None` where more bytes are
/// needed. `scanned` says how many bytes an earlier call saw without finding the end, so that a
/// request that comes byte by byte is not read again from its start each time.
///
/// # Errors
/// Where the bytes can never become a policy request.
pub fn parse(bytes: &[u8], scanned: usize) -> Result<Option<(Request<'_>, usize)>, WireError> {
    let more_comes = || if bytes.len() >= MAX_REQUEST_BYTES { Err(WireError::TooLong) } else { Ok(None) };
    if scanned > 0 && !ends_after(bytes, scanned) {
        return more_comes();
    }
    let mut request = Request::default();
    let mut is_policy_request = false;
    // Told when the request is whole, so that it does not matter in which pieces it came.
    let mut wrong = None;
    let mut start = 0;
    for (n, end) in Newlines::of(bytes).enumerate() {
        let line = &bytes[start..end];
        start = end + 1;
        if start > MAX_REQUEST_BYTES {
            return Err(WireError::TooLong);
        }
        if line.is_empty() {
            return match wrong {
                Some(error) => Err(error),
                None if is_policy_request => Ok(Some((request, start))),
                None => Err(WireError::NotAPolicyRequest),
            };
        }
        if n >= MAX_ATTRIBUTES {
            wrong.get_or_insert(WireError::TooManyAttributes);
        } else if let Some(value) = line.strip_prefix(b"request=") {
            is_policy_request = value == b"smtpd_access_policy";
        } else if !request.set(line) && !is_attribute(line) {
            wrong.get_or_insert(WireError::NotAnAttribute(n + 1));
        }
    }
    more_comes()
}

/// Where the line feeds stand. Lines here are some twenty bytes long, and searching each anew costs
/// more than looking at eight bytes at a time once.
struct Newlines<'a> {
    rest: &'a [u8],
    /// Where the eight bytes stand that `found` is about.
    at: usize,
    next: usize,
    /// The upper bit of each byte that is a line feed, the first byte lowest.
    found: u64,
}

impl<'a> Newlines<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0, next: 0, found: 0 }
    }
}

impl Iterator for Newlines<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            let eight = match self.rest.split_first_chunk::<8>() {
                Some((eight, rest)) => {
                    self.rest = rest;
                    *eight
                }
                None if self.rest.is_empty() => return None,
                None => {
                    let mut eight = [0; 8];
                    eight.iter_mut().zip(self.rest).for_each(|(to, from)| *to = *from);
                    self.rest = &[];
                    eight
                }
            };
            self.at = self.next;
            self.next += 8;
            self.found = line_feeds(u64::from_le_bytes(eight));
        }
        let byte = self.found.trailing_zeros() / 8;
        self.found &= self.found - 1;
        Some(self.at + byte as usize)
    }
}

/// The upper bit of each of the eight bytes that is a line feed; no carry goes from byte to byte.
fn line_feeds(eight: u64) -> u64 {
    const LOW_SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let zero_where_found = eight ^ 0x0a0a_0a0a_0a0a_0a0a;
    !(((zero_where_found & LOW_SEVEN) + LOW_SEVEN) | zero_where_found | LOW_SEVEN)
}

/// Whether a line has a name and a `=`.
fn is_attribute(line: &[u8]) -> bool {
    memchr(b'=', line).is_some_and(|equals| equals > 0)
}

/// Whether an empty line ends somewhere behind the first `scanned` bytes, in which there is none.
fn ends_after(bytes: &[u8], scanned: usize) -> bool {
    let from = scanned.saturating_sub(1).min(bytes.len());
    memmem::find(&bytes[from..], b"\n\n").is_some()
}

impl<'a> Request<'a> {
    /// Takes a line where it is an attribute of ours. By its first letter: this runs for some thirty
    /// lines of every question.
    fn set(&mut self, line: &'a [u8]) -> bool {
        match line.first() {
            Some(b's') => {
                take(line, b"sender=", &mut self.sender) || take(line, b"sasl_username=", &mut self.sasl_username)
            }
            Some(b'r') => {
                let mut count: &[u8] = b"";
                let is_count = take(line, b"recipient_count=", &mut count);
                if is_count {
                    self.recipient_count = number(count);
                }
                is_count || take(line, b"recipient=", &mut self.recipient)
            }
            Some(b'p') => {
                let mut state: &[u8] = b"";
                let is_state = take(line, b"protocol_state=", &mut state);
                if is_state {
                    self.state = State::parse(state);
                }
                is_state || take(line, b"policy_context=", &mut self.policy_context)
            }
            Some(b'c') => take(line, b"client_address=", &mut self.client_address),
            Some(b'i') => take(line, b"instance=", &mut self.instance),
            Some(b'q') => take(line, b"queue_id=", &mut self.queue_id),
            _ => false,
        }
    }
}

/// Puts the value of a line with this name into `field`.
#[inline]
fn take<'a, const N: usize>(line: &'a [u8], name: &[u8; N], field: &mut &'a [u8]) -> bool {
    let Some(value) = line.strip_prefix(name.as_slice()) else { return false };
    *field = value;
    true
}

/// A decimal number; what is none counts as absent, what is too large as the largest.
fn number(value: &[u8]) -> u32 {
    value
        .iter()
        .try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n.saturating_mul(10).saturating_add(u32::from(b - b'0'))))
        .unwrap_or(0)
}

/// Appends the reply for an action: `action=…`, LF, empty line. A control character would end the
/// reply early, so each becomes a blank.
pub fn write_reply(action: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"action=");
    out.extend(action.bytes().map(|b| if b.is_ascii_control() { b' ' } else { b }));
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &[u8] = b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a=b@x\nrecipient=\xff@y\n\
        recipient_count=0\nclient_address=10.0.0.1\ninstance=1.2.3.4\nnew_thing=?\npolicy_context=recipient\n\n";

    #[test]
    fn reads_a_request() {
        let (request, length) = parse(ONE, 0).expect("valid").expect("complete");
        assert_eq!(length, ONE.len());
        assert_eq!(request.state, State::Rcpt);
        assert_eq!(request.sender, b"a=b@x");
        assert_eq!(request.recipient, b"\xff@y");
        assert_eq!(request.client_address, b"10.0.0.1");
        assert_eq!(request.policy_context, b"recipient");
        assert_eq!(request.sasl_username, b"");
    }

    #[test]
    fn a_request_is_the_same_however_it_is_split() {
        let mut scanned = 0;
        for end in 0..ONE.len() {
            assert_eq!(parse(&ONE[..end], scanned), Ok(None), "{end}");
            scanned = end;
        }
        assert!(parse(ONE, scanned).expect("valid").is_some());
    }

    #[test]
    fn the_first_of_a_batch_is_taken() {
        let batch = [ONE, ONE].concat();
        let (_, length) = parse(&batch, 0).expect("valid").expect("complete");
        assert_eq!(length, ONE.len());
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let many = b"request=smtpd_access_policy\n".iter().copied().chain(b"x=\n".repeat(256)).chain(*b"\n");
        for (bytes, error) in [
            (b"\n".to_vec(), WireError::NotAPolicyRequest),
            (b"request=other\n\n".to_vec(), WireError::NotAPolicyRequest),
            (b"sender=x\n\n".to_vec(), WireError::NotAPolicyRequest),
            (b"request=smtpd_access_policy\nnonsense\n\n".to_vec(), WireError::NotAnAttribute(2)),
            (b"=x\n\n".to_vec(), WireError::NotAnAttribute(1)),
            (many.collect(), WireError::TooManyAttributes),
            (vec![b'x'; MAX_REQUEST_BYTES], WireError::TooLong),
        ] {
            assert_eq!(parse(&bytes, 0), Err(error));
        }
    }

    #[test]
    fn numbers_never_overflow() {
        assert_eq!(number(b"99999999999999"), u32::MAX);
        assert_eq!((number(b"-1"), number(b""), number(b"50")), (0, 0, 50));
    }

    proptest! {
        #[test]
        fn every_line_feed_is_found(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), 0x09u8..0x0c, 0x89u8..0x8c, any::<u8>()], 0..70)) {
            let found: Vec<usize> = Newlines::of(&bytes).collect();
            prop_assert_eq!(found, memchr::memchr_iter(b'\n', &bytes).collect::<Vec<_>>());
        }

        #[test]
        fn never_panics_and_a_split_changes_nothing(bytes: Vec<u8>, cut: usize) {
            let whole = parse(&bytes, 0);
            let cut = cut % (bytes.len() + 1);
            if let Ok(Some((request, length))) = parse(&bytes[..cut], 0) {
                prop_assert_eq!(whole, Ok(Some((request, length))));
            }
        }

        #[test]
        fn a_reply_is_always_one_action(action: String) {
            let mut out = Vec::new();
            write_reply(&action, &mut out);
            prop_assert!(out.ends_with(b"\n\n"));
            prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 2);
        }
    }
}
