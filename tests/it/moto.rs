//! The companion for AWS: the template, made in moto's server, and the way of an event from mail that Postfix hands to
//! SES up to the queue. (What gatepost does with it there: `ses_events`.)

use crate::aws::{Aws, Ses, add_section, python};
use crate::gatepost::{Daemon, Home, OPEN, both};
use crate::postfix::{Options, Postfix, shipped};
use crate::smtp::Session;
use crate::wait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

#[test]
fn the_template_passes_cfn_lint() {
    let out = Command::new(python())
        // (Not by its own first line, which names the folder that it was installed into.)
        .arg(python().with_file_name("cfn-lint"))
        // Its informational remarks too.
        .args(["--include-checks", "I", "--"])
        .arg(shipped("aws/template.yaml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", both(&out));
    assert_eq!(both(&out), "");
}

/// A policy that came back as a text.
fn policy(text: &Value) -> Value {
    serde_json::from_str(text.as_str().expect("a policy")).expect("JSON")
}

#[test]
fn the_stack_is_made_and_locked() {
    let mut aws = Aws::shared();
    assert_eq!(aws.told()["status"], "CREATE_COMPLETE");
    for made in ["Topic", "Queue", "DeadLetterQueue", "RelayPolicy", "RelayRole", "RelayInstanceProfile"] {
        assert!(aws.told()["resources"][made].is_string(), "{made} is not in {}", aws.told()["resources"]);
    }

    let (queue, dead) = (aws.queue("QueueUrl"), aws.queue("DeadLetterQueueUrl"));
    assert_eq!(
        (&queue["MessageRetentionPeriod"], &dead["MessageRetentionPeriod"]),
        (&json!("1209600"), &json!("1209600"))
    );
    assert_eq!(queue["VisibilityTimeout"], "60");
    let redrive = policy(&queue["RedrivePolicy"]);
    assert_eq!(redrive["deadLetterTargetArn"], dead["QueueArn"]);
    assert_eq!(redrive["maxReceiveCount"].to_string().trim_matches('"'), "10");
    let topic = aws.output("TopicArn");
    let statements = &policy(&queue["Policy"])["Statement"];
    assert_eq!(statements[0]["Condition"], json!({"ArnEquals": {"aws:SourceArn": topic}}));
    assert_eq!(statements[1]["Condition"], json!({"Bool": {"aws:SecureTransport": "false"}}));

    let attributes = aws.call("sns.get_topic_attributes", &json!({"TopicArn": topic}))["Attributes"].clone();
    let statements = &policy(&attributes["Policy"])["Statement"];
    assert_eq!(statements.as_array().map(Vec::len), Some(1));
    assert_eq!(statements[0]["Principal"], json!({"Service": "ses.amazonaws.com"}));
    let account = aws.told()["account"].as_str().unwrap().to_owned();
    let source = format!("arn:aws:ses:eu-west-1:{account}:configuration-set/relay-events");
    let locked = json!({"AWS:SourceAccount": account, "AWS:SourceArn": source});
    assert_eq!(statements[0]["Condition"], json!({"StringEquals": locked}));
}

#[test]
fn the_relay_may_read_its_queue_and_nothing_else() {
    let mut aws = Aws::shared();
    let (arn, queue) = (aws.output("RelayPolicyArn"), aws.queue("QueueUrl")["QueueArn"].clone());
    let found = aws.call("iam.get_policy_version", &json!({"PolicyArn": arn, "VersionId": "v1"}));
    let statements = found["PolicyVersion"]["Document"]["Statement"].clone();
    let allowed = ["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"];
    let actions = allowed.map(|action| format!("sqs:{action}"));
    assert_eq!(statements, json!([{"Sid": "ReadEvents", "Effect": "Allow", "Action": actions, "Resource": queue}]));

    let role = aws.output("RelayRoleName");
    let attached = aws.call("iam.list_attached_role_policies", &json!({"RoleName": role}));
    assert_eq!(attached["AttachedPolicies"].as_array().map(Vec::len), Some(1));
    assert_eq!(attached["AttachedPolicies"][0]["PolicyArn"], arn.as_str());
    let inline = aws.call("iam.list_role_policies", &json!({"RoleName": role}));
    assert_eq!(inline["PolicyNames"], json!([]));
}

#[test]
fn what_the_parameters_ask_for() {
    let asked = ["ConfigurationSetName=other", "Identity=example.com", "OpensAndClicks=yes", "CreateRole=no"];
    let mut aws = Aws::start(&asked);
    assert_eq!(aws.output("ConfigurationSet"), "other");
    for absent in ["RelayRoleName", "InstanceProfileName"] {
        assert!(aws.told()["outputs"].get(absent).is_none(), "{}", aws.told()["outputs"]);
    }
    let identity = aws.call("sesv2.get_email_identity", &json!({"EmailIdentity": "example.com"}));
    assert_eq!(identity["ConfigurationSetName"], "other");
    let with = json!({"ConfigurationSetName": "other", "ConfigurationSetAttributeNames": ["eventDestinations"]});
    let set = aws.call("ses.describe_configuration_set", &with);
    let destination = &set["EventDestinations"][0];
    assert_eq!(destination["SNSDestination"]["TopicARN"], aws.output("TopicArn").as_str());
    assert_eq!(destination["MatchingEventTypes"].as_array().map(Vec::len), Some(9), "{destination}");
}

/// The output that README.md appends to gatepost.toml is a section that gatepost takes without a remark.
#[test]
fn the_section_for_gatepost_toml() {
    let aws = Aws::shared();
    let section = aws.output("GatepostToml");
    for words in [&aws.output("QueueUrl"), aws.told()["account"].as_str().unwrap()] {
        assert!(section.contains(words), "{words} is not in {section}");
    }
    let home = Home::alone("", OPEN);
    add_section(&home, &section);
    let out = home.command(&["check"]).output().unwrap();
    assert!(out.status.success() && both(&out).lines().count() == 1, "{}", both(&out));
}

/// The stand-in is to refuse what SES refuses, or what a relay is tested with would not hold there.
#[test]
fn the_stand_in_answers_as_ses_does() {
    let spool = tempfile::tempdir().unwrap();
    let ses = Ses::spooling_to(spool.path(), &[]);
    let mut session = Session::open(ses.port());
    session.say("MAIL FROM:<>").expect(501, &["Invalid MAIL FROM address provided"]);
    session.say("MAIL FROM:<info@example.com>").expect(250, &["250 Ok"]);
    session.say("RCPT TO:<nobody>").expect(553, &["Invalid email address"]);
    session.say("DATA").expect(503, &[]);
    let replies =
        session.pipeline(&["MAIL FROM:<info@example.com> BODY=8BITMIME", "RCPT TO:<user@example.net>", "DATA"]);
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 250, 354]);
    session.say("Subject: dots\r\n\r\n..\r\n...two\r\n.").expect(250, &["250 Ok 0109", "-000000"]);
    assert!(ses.message("dots").content.ends_with("\n\n.\n..two\n"));

    let many: Vec<_> = (0..51).map(|n| format!("user{n}@example.net")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    session.mail("info@example.com", &many, "for 51").expect(554, &["Recipient count exceeds 50"]);
    session.mail("info@example.com", &many[..50], "for 50").expect(250, &["250 Ok 0109"]);
    assert_eq!(ses.message("for 50").to.len(), 50);
}

/// Every event of a message, as it lies in the queue: raw, or in SNS's envelope.
fn bodies_of_a_mail(raw: &str) -> (String, Vec<String>) {
    let mut aws = Aws::start(&[&format!("RawDelivery={raw}")]);
    let ses = Ses::publishing_to(&aws);
    let postfix = Postfix::start(&Options { set: vec![ses.relayhost()], ..Options::default() });
    let (_home, _daemon) = Daemon::beside(&postfix, "", OPEN);
    let to = ["user@example.net", "gone@example.net", "complaint@example.org"];
    postfix.session().mail("info@example.com", &to, "for three").expect(250, &[]);
    let mail = ses.message("for three");
    // (Postfix sorts recipients.)
    assert_eq!(BTreeSet::from_iter(mail.to.iter().map(String::as_str)), BTreeSet::from(to));
    for to in to {
        postfix.log_line(&[&format!("to=<{to}>"), &format!("status=sent (250 Ok {})", mail.id)]);
    }
    // Send; Delivery, Bounce; Delivery and Complaint.
    (mail.id, aws.receive("QueueUrl", 5))
}

/// What the events of [`bodies_of_a_mail`] must be.
fn are_the_events_of(id: &str, events: &[Value]) {
    let mut types: Vec<_> = events.iter().map(|event| event["eventType"].as_str().expect("a type")).collect();
    types.sort_unstable();
    assert_eq!(types, ["Bounce", "Complaint", "Delivery", "Delivery", "Send"]);
    for event in events {
        assert_eq!(event["mail"]["messageId"], id);
        assert_eq!(event["mail"]["tags"]["ses:configuration-set"], json!(["relay-events"]));
    }
    let of = |kind: &str| events.iter().find(|event| event["eventType"] == kind).expect("one");
    assert_eq!(of("Bounce")["bounce"]["bouncedRecipients"][0]["emailAddress"], "gone@example.net");
    assert_eq!(
        of("Complaint")["complaint"]["complainedRecipients"],
        json!([{"emailAddress": "complaint@example.org"}])
    );
    assert_eq!(of("Send")["send"], json!({}));
}

#[test]
fn events_come_raw() {
    let (id, bodies) = bodies_of_a_mail("true");
    let events: Vec<Value> = bodies.iter().map(|body| serde_json::from_str(body).expect("JSON")).collect();
    are_the_events_of(&id, &events);
}

#[test]
fn events_come_in_an_envelope() {
    let (id, bodies) = bodies_of_a_mail("false");
    let unwrapped = |body: &String| -> Value {
        let envelope: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(
            (&envelope["Type"], &envelope["Subject"]),
            (&json!("Notification"), &json!("Amazon SES Email Event Notification"))
        );
        serde_json::from_str(envelope["Message"].as_str().expect("a text")).expect("JSON")
    };
    are_the_events_of(&id, &bodies.iter().map(unwrapped).collect::<Vec<_>>());
}

#[test]
fn events_come_as_files() {
    let spool = tempfile::tempdir().unwrap();
    let ses = Ses::spooling_to(spool.path(), &[]);
    let mut session = Session::open(ses.port());
    session.mail("info@example.com", &["slow@example.net"], "slow").expect(250, &[]);
    wait::true_within("three events", wait::LONG, || ses.events() == 3);
    let mut types = Vec::new();
    for entry in fs::read_dir(spool.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().and_then(|e| e.to_str()), Some("json"), "{}", path.display());
        let event: Value = serde_json::from_slice(&fs::read(path).unwrap()).expect("JSON");
        types.push(event["eventType"].as_str().expect("a type").to_owned());
    }
    types.sort();
    assert_eq!(types, ["Delivery", "DeliveryDelay", "Send"]);
}
