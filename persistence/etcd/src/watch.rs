//! Watching the keys of a fabric: the hint that something has changed.
//!
//! # Not here
//! What has changed: the reader looks.

use std::time::Duration;

use epicserver_coordinator::Hints;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::gateway::Gateway;
use crate::keys::Keys;
use crate::txn::encode;

/// How long to wait after a watch has ended, at first and at the most.
const AGAIN_MIN: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);

/// Watches for ever.
pub(crate) async fn watch(mut gateway: Gateway, keys: Keys, hints: Hints) -> ! {
    let (first, end) = keys.news();
    let range = json!({ "create_request": { "key": encode(first), "range_end": encode(end) } });
    let mut again = AGAIN_MIN;
    loop {
        let mut pieces = 0_u32;
        // Why there is none is said to whoever asks for something.
        if let Ok(mut events) = gateway.stream("/v3/watch", &range).await {
            // The first piece says that the watch has begun; what happened before was not heard.
            while let Some(Ok(_piece)) = events.frame().await {
                hints.say_changed();
                pieces = pieces.saturating_add(1);
            }
        }
        gateway.leave();
        again = if pieces > 1 { AGAIN_MIN } else { (again * 2).min(AGAIN_MAX) };
        tokio::time::sleep(again).await;
    }
}
