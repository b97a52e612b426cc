//! Events as they lie in the queue: SES's, in the envelope of SNS, by number, each about another message. Every
//! part is derived from the number, so that who checks need not remember what was sent.

/// What became of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Delivered.
    Delivery,
    /// A permanent bounce: the recipient is to stand on the list.
    Bounce,
    /// A complaint with one candidate: the same.
    Complaint,
}

/// Which events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Half deliveries, a quarter bounces, a quarter complaints: more for the list to do than any relay has.
    Mixed,
    /// Bounces only.
    Bounces,
}

/// Events by number.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Which.
    pub mix: Mix,
    /// How many recipients there are; the same comes again after so many events. 0: every event has its own.
    pub recipients: u64,
}

impl Sample {
    /// Permanent bounces, each of a recipient of its own.
    pub const BOUNCES: Self = Self { mix: Mix::Bounces, recipients: 0 };

    /// A mix, each event about a recipient of its own.
    pub const MIXED: Self = Self { mix: Mix::Mixed, recipients: 0 };

    /// What event `n` says.
    pub fn kind(self, n: u64) -> Kind {
        match (self.mix, n % 4) {
            (Mix::Bounces, _) | (Mix::Mixed, 2) => Kind::Bounce,
            (Mix::Mixed, 3) => Kind::Complaint,
            (Mix::Mixed, _) => Kind::Delivery,
        }
    }

    /// Whom it is about.
    pub fn recipient(self, n: u64) -> String {
        let n = if self.recipients == 0 { n } else { n % self.recipients };
        format!("rcpt{n:08}@r{:03}.example.org", n % 1000)
    }

    /// Whether its recipient stands on the list because of it.
    pub fn suppresses(self, n: u64) -> bool {
        self.kind(n) != Kind::Delivery
    }

    /// The body of its message in the queue: SNS's envelope, which holds the event as text.
    pub fn body(self, n: u64) -> String {
        let event = self.event(n);
        // A string always has a JSON form.
        let message = serde_json::to_string(&event).unwrap_or_default();
        format!(
            "{{\n  \"Type\" : \"Notification\",\n  \"MessageId\" : \"6f3c2e0a-1f7b-5c1e-9d55-{n:012x}\",\n  \
             \"TopicArn\" : \"arn:aws:sns:eu-west-1:123456789012:ses-events\",\n  \"Message\" : {message},\n  \
             \"Timestamp\" : \"2026-01-05T09:15:02.511Z\",\n  \"SignatureVersion\" : \"1\",\n  \
             \"Signature\" : \"{SIGNATURE}\",\n  \"SigningCertURL\" : \"https://sns.eu-west-1.amazonaws.com/\
             SimpleNotificationService-9c6465fa7f48f5cacd23014631ec1136.pem\",\n  \"UnsubscribeURL\" : \
             \"https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:aws:sns:eu-west-1:\
             123456789012:ses-events:d1b7a1c3-7f0e-4b52-8a53-0e4f2a6d9c11\"\n}}"
        )
    }

    /// The event, as an identity's notification with the original headers.
    fn event(self, n: u64) -> String {
        let (to, id) = (self.recipient(n), message_id(n));
        let (word, part) = match self.kind(n) {
            Kind::Delivery => (
                "Delivery",
                format!(
                    r#""delivery":{{"timestamp":"2026-01-05T09:15:02.470Z","processingTimeMillis":3558,"recipients":["{to}"],"smtpResponse":"250 2.0.0 OK  1767604502 5b1f17b1804b1-3fe1dea8sm95241235e9.24 - gsmtp","remoteMtaIp":"192.0.2.27","reportingMTA":"a6-61.smtp-out.eu-west-1.amazonses.com"}}"#
                ),
            ),
            Kind::Bounce => (
                "Bounce",
                format!(
                    r#""bounce":{{"feedbackId":"{id}","bounceType":"Permanent","bounceSubType":"General","bouncedRecipients":[{{"emailAddress":"{to}","action":"failed","status":"5.1.1","diagnosticCode":"smtp; 550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking the recipient's email address"}}],"timestamp":"2026-01-05T09:15:02.000Z","remoteMtaIp":"192.0.2.27","reportingMTA":"dns; a6-61.smtp-out.eu-west-1.amazonses.com"}}"#
                ),
            ),
            Kind::Complaint => (
                "Complaint",
                format!(
                    r#""complaint":{{"feedbackId":"{id}","complaintSubType":null,"complainedRecipients":[{{"emailAddress":"{to}"}}],"timestamp":"2026-01-05T09:15:02.000Z","userAgent":"Mail Feedback Loop/1.0","complaintFeedbackType":"abuse","arrivalDate":"2026-01-05T09:15:01.000Z"}}"#
                ),
            ),
        };
        format!(
            r#"{{"notificationType":"{word}",{part},"mail":{{"timestamp":"2026-01-05T09:14:58.912Z","source":"info@example.com","sourceArn":"arn:aws:ses:eu-west-1:123456789012:identity/example.com","sourceIp":"203.0.113.12","callerIdentity":"relay","sendingAccountId":"123456789012","messageId":"{id}","destination":["{to}"],"headersTruncated":false,"headers":[{{"name":"Received","value":"from relay.example.com (ec2-203-0-113-12.eu-west-1.compute.amazonaws.com [203.0.113.12]) by email-smtp.amazonaws.com with SMTP (SimpleEmailService-d-ABCDEFGHI) id {n:020}; Mon, 05 Jan 2026 09:14:58 +0000 (UTC)"}},{{"name":"From","value":"Example <info@example.com>"}},{{"name":"To","value":"{to}"}},{{"name":"Subject","value":"Your order {n}"}},{{"name":"Message-ID","value":"<{n:x}.4ZabcD1Yxz1@app.internal.example.com>"}},{{"name":"Date","value":"Mon, 05 Jan 2026 09:14:58 +0000"}},{{"name":"MIME-Version","value":"1.0"}},{{"name":"Content-Type","value":"text/plain; charset=utf-8"}},{{"name":"X-Correlation-ID","value":"0198c2{n:010x}"}},{{"name":"X-SES-MESSAGE-TAGS","value":"queue_id=4Z{n:010x}z1"}}],"commonHeaders":{{"from":["Example <info@example.com>"],"date":"Mon, 05 Jan 2026 09:14:58 +0000","to":["{to}"],"messageId":"<{n:x}.4ZabcD1Yxz1@app.internal.example.com>","subject":"Your order {n}"}}}}}}"#
        )
    }
}

/// SES's id of message `n`, which begins the line of its event.
pub fn message_id(n: u64) -> String {
    format!("010201{n:010x}-5b0c2f6e-9a6d-4f0e-8f53-3c1d0f9e7a11-000000")
}

/// The number of the message with this id.
pub fn number(message_id: &str) -> Option<u64> {
    let digits = message_id.strip_prefix("010201")?.get(..10)?;
    u64::from_str_radix(digits, 16).ok()
}

/// As long as SNS's are; not one.
const SIGNATURE: &str = "EXAMPLEpH0VdDq1o5cUoKz2m8b7V6bQ8Vd0m5r1sV3gq3kzqgq0QkJm2m0kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m\
    1kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5\
    w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5w7b1gq4v3q1k9Yk3b2m1kz2lq8c0mQ5e5w7b1gq4v3q1k9==";
