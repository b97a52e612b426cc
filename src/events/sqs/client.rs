//! The SDK's client: region and credentials from the SDK's own chain; no retries of its own, for the pollers'
//! back-off is one for all of a queue's calls.

use aws_config::BehaviorVersion;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::config::{Builder, Region, StalledStreamProtectionConfig};
use std::time::Duration;

/// The long poll: SQS's longest, so that an idle queue costs three calls a minute.
pub(super) const LONG_POLL_SECONDS: i32 = 20;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long any answer may take: the long poll and half of it again.
const ANSWER: Duration = Duration::from_secs(30);

/// A client for the queue with this URL, with credentials read anew.
pub(super) async fn connect(url: &str) -> Client {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region_of(url) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    let shared = loader.load().await;
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(ANSWER).operation_timeout(ANSWER);
    let mut config = Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts.build())
        // A long poll is silent by nature; the timeouts end what hangs.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    let is_set = shared.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_SQS").is_some();
    if let Some(endpoint) = endpoint_of(url).filter(|_| !is_set) {
        config = config.endpoint_url(endpoint);
    }
    Client::from_conf(config.build())
}

/// The region that a queue's URL names: `sqs.REGION.amazonaws.com`, `REGION.queue.amazonaws.com`, those of other
/// partitions, and of VPC endpoints (`vpce-….sqs.REGION.vpce.amazonaws.com`). A queue cannot be asked anywhere
/// else, so it stands before the chain's.
#[must_use]
pub fn region_of(url: &str) -> Option<&str> {
    let host = host(url)?;
    let labels: Vec<&str> = host.split('.').collect();
    let aws = labels.iter().position(|label| *label == "amazonaws")?;
    let before = labels.get(..aws)?;
    let at = match before {
        [.., "sqs" | "sqs-fips", region] | [.., "sqs" | "sqs-fips", region, "vpce"] | [region, "queue"] => region,
        _ => return None,
    };
    Some(*at)
}

/// Where to ask, if that is not where the SDK asks by itself for the region: the URL's own scheme and host.
#[must_use]
pub fn endpoint_of(url: &str) -> Option<&str> {
    let host = host(url)?;
    let is_public = region_of(url).is_some() && !host.contains(".vpce.") || host == "queue.amazonaws.com";
    let end = url.find("://")? + 3 + url.split_once("://")?.1.find('/')?;
    if is_public { None } else { url.get(..end) }
}

/// Without the port.
fn host(url: &str) -> Option<&str> {
    url.split_once("://")?.1.split(['/', ':']).next().filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_region_and_endpoint() {
        for (url, region, endpoint) in [
            ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1"), None),
            ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", Some("cn-north-1"), None),
            ("https://us-east-2.queue.amazonaws.com/1/q", Some("us-east-2"), None),
            ("https://queue.amazonaws.com/1/q", None, None),
            (
                "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q",
                Some("eu-west-1"),
                Some("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"),
            ),
            ("http://127.0.0.1:5055/123456789012/q", None, Some("http://127.0.0.1:5055")),
            ("https://sqs.example.com/1/q", None, Some("https://sqs.example.com")),
        ] {
            assert_eq!((region_of(url), endpoint_of(url)), (region, endpoint), "{url}");
        }
        assert_eq!(region_of("nonsense"), None);
        assert_eq!(endpoint_of("http://x"), None);
    }
}
