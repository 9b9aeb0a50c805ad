//! Hooks for reminders in each of their forms.

use std::time::Duration;

use epicserver::prelude::*;

#[entity]
#[derive(Default)]
pub struct Plain {
    labels: Vec<String>,
}

#[entity]
impl Plain {
    pub fn start(&mut self, at: At<Self>) {
        at.remind_every("tick", Duration::from_secs(60));
        at.forget("tock");
    }

    #[reminded]
    fn wake(&mut self, reminder: Reminder) {
        self.labels.push(reminder.label);
    }
}

#[entity(saved = "manual")]
#[derive(Default)]
struct Again {}

#[entity]
impl Again {
    #[epicserver::reminded]
    fn wake(&mut self, at: At<Self>, reminder: Reminder) {
        at.remind_in(reminder.label, Duration::from_secs(1));
    }
}

#[entity(key = u64)]
#[derive(Default)]
struct Waits {}

#[entity]
impl Waits {
    #[reminded]
    async fn wake(cx: Cx<Self>, reminder: Reminder) {
        if cx.sleep(reminder.due).await.is_err() {}
    }
}

fn main() {}
