//! The near end of a handle whose work is done on a thread of its own.
//!
//! # Not here
//! The invariants: they are in the head of the crate. The work.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::far::{Far, Shared, Ticket};
use crate::{ASK_MAX, ASKS_MAX, Answer, Ask, AskId, Asked, Coordinator, GIVE_UP, Wake, check};

/// Starts `work` on a thread of its own. It is to take asks until there are no more, and then to end soon.
///
/// # Errors
/// What the kernel says if there can be no thread.
pub fn start(
    name: &'static str,
    wake: Wake,
    work: impl FnOnce(Far) + Send + 'static,
) -> io::Result<Near> {
    let shared = Arc::new(Shared::new(wake));
    let far = Far(Arc::clone(&shared));
    let thread = std::thread::Builder::new().name("epic-coord".to_owned());
    let thread = thread.spawn(move || work(far))?;
    let (waiting, refused) = (Vec::new(), Vec::new());
    Ok(Near { name, shared, waiting, refused, asked: 0, highest: 0, thread: Some(thread) })
}

/// A handle whose work is done on a thread of its own.
#[derive(Debug)]
pub struct Near {
    name: &'static str,
    shared: Arc<Shared>,
    waiting: Vec<Waiting>,
    /// Answers that no coordinator is needed for.
    refused: Vec<(AskId, Answer)>,
    /// How many asks there were.
    asked: u64,
    /// The highest number of a view that was seen (**CN6**).
    highest: u64,
    thread: Option<JoinHandle<()>>,
}

/// An ask that was handed over.
#[derive(Debug)]
struct Waiting {
    id: AskId,
    serial: u64,
    asked: Instant,
}

impl Near {
    fn answered(&mut self, ticket: &Ticket, answer: Answer) -> Option<(AskId, Answer)> {
        let at = self.waiting.iter().position(|waiting| waiting.serial == ticket.0);
        let answer = self.not_back(answer);
        // One that was given up is no news any more (CN1).
        Some((self.waiting.remove(at?).id, answer))
    }

    /// CN6.
    fn not_back(&mut self, answer: Answer) -> Answer {
        let Some(number) = number_of(&answer) else { return answer };
        let highest = self.highest;
        if number < highest {
            let why = format!(
                "the coordinator ({}) has gone back from view {highest} to {number}: it has lost what it knew",
                self.name
            );
            return Answer::Failed { why };
        }
        self.highest = number;
        answer
    }

    fn fail(&mut self, which: impl Fn(&Waiting) -> bool, why: &str) -> Vec<(AskId, Answer)> {
        let failed = self.waiting.extract_if(.., |waiting| which(waiting));
        failed.map(|waiting| (waiting.id, Answer::Failed { why: why.to_owned() })).collect()
    }
}

impl Coordinator for Near {
    fn name(&self) -> &'static str {
        self.name
    }

    fn ask(&mut self, id: AskId, ask: Ask) -> Result<(), Ask> {
        if self.waiting.len() + self.refused.len() >= ASKS_MAX {
            return Err(ask);
        }
        if let Err(why) = check(&ask) {
            self.refused.push((id, Answer::Failed { why }));
            self.shared.wake.ring();
            return Ok(());
        }
        let (asked, serial) = (Instant::now(), self.asked);
        let handed = Asked { ask, until: asked + ASK_MAX, ticket: Ticket(serial) };
        self.shared.asks.push(handed).map_err(|handed| handed.ask)?;
        self.asked += 1;
        self.waiting.push(Waiting { id, serial, asked });
        self.shared.wake_far();
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<(AskId, Answer)>) {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        done.append(&mut self.refused);
        while let Some((ticket, answer)) = self.shared.answers.pop() {
            done.extend(self.answered(&ticket, answer));
        }
        if ended {
            done.extend(self.fail(|_| true, "the coordinator's thread has ended"));
        } else if !self.waiting.is_empty() {
            let now = Instant::now();
            let late = |waiting: &Waiting| now.duration_since(waiting.asked) >= GIVE_UP;
            let why = format!("the coordinator ({}) does not answer", self.name);
            done.extend(self.fail(late, &why));
        }
    }

    fn take_changed(&mut self) -> bool {
        self.shared.changed.swap(false, Ordering::SeqCst)
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.wake_far();
        if let Some(thread) = self.thread.take() {
            // A panic has been shown by the hook of panics, and there is nobody left to be told.
            let _ended = thread.join();
        }
    }
}

/// The number of the view, if `answer` tells it.
fn number_of(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::State { view, .. } => Some(view.as_ref().map_or(0, |(number, _)| *number)),
        Answer::Renewed { number } | Answer::Changed { number } | Answer::Overtaken { number } => {
            Some(*number)
        }
        Answer::Evicted | Answer::Alive { .. } | Answer::Released | Answer::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::task::Context;

    use super::*;

    /// A handle whose asks get `answers`, one each, and after them none.
    fn answering(answers: Vec<Answer>) -> (Near, std::sync::mpsc::Receiver<()>) {
        let (rung, wait) = channel();
        let wake = Wake::new(move || {
            let _heard = rung.send(());
        });
        let near = start("test", wake, move |mut far| {
            let waker = std::task::Waker::noop();
            for answer in answers {
                let asked = loop {
                    match far.poll_next(&Context::from_waker(waker)) {
                        std::task::Poll::Ready(Some(asked)) => break asked,
                        std::task::Poll::Ready(None) => return,
                        std::task::Poll::Pending => std::thread::yield_now(),
                    }
                };
                far.answer(asked.ticket, answer);
            }
        });
        (near.unwrap(), wait)
    }

    fn all(near: &mut Near, wait: &std::sync::mpsc::Receiver<()>, asks: u64) -> Vec<Answer> {
        for id in 0..asks {
            near.ask(AskId(id), Ask::Read).unwrap();
        }
        let mut done = Vec::new();
        while done.len() < usize::try_from(asks).unwrap() {
            // The end of the thread rings nothing.
            let _rung = wait.recv_timeout(std::time::Duration::from_millis(10));
            near.poll(&mut done);
        }
        done.into_iter().map(|(_, answer)| answer).collect()
    }

    #[test]
    fn cn6_a_number_that_goes_back_is_a_failure() {
        let answers = vec![
            Answer::Renewed { number: 5 },
            Answer::Overtaken { number: 4 },
            Answer::State { view: None, leases: Vec::new() },
            Answer::Changed { number: 5 },
        ];
        let (mut near, wait) = answering(answers);
        let answers = all(&mut near, &wait, 4);
        assert_eq!(answers[0], Answer::Renewed { number: 5 });
        assert!(
            matches!(&answers[1], Answer::Failed { why } if why.contains("from view 5 to 4")),
            "{answers:?}"
        );
        assert!(matches!(&answers[2], Answer::Failed { .. }));
        assert_eq!(answers[3], Answer::Changed { number: 5 });
    }

    #[test]
    fn cn1_a_thread_that_ends_leaves_no_ask_unanswered() {
        let (mut near, wait) = answering(vec![Answer::Released]);
        let answers = all(&mut near, &wait, 3);
        assert_eq!(answers[0], Answer::Released);
        for answer in &answers[1..] {
            assert!(matches!(answer, Answer::Failed { why } if why.contains("has ended")));
        }
    }

    #[test]
    fn cn1_an_ask_that_nobody_answers_is_given_up_and_its_late_answer_is_dropped() {
        let (let_go, held) = channel::<()>();
        let (answered, late) = channel();
        let mut near = start("test", Wake::new(|| ()), move |mut far| {
            held.recv().unwrap();
            let asked = far.poll_next(&Context::from_waker(std::task::Waker::noop()));
            let std::task::Poll::Ready(Some(asked)) = asked else { panic!("it was asked") };
            far.answer(asked.ticket, Answer::Released);
            answered.send(()).unwrap();
            held.recv().unwrap_err();
        })
        .unwrap();
        near.ask(AskId(7), Ask::Read).unwrap();
        // As if it had been asked long ago.
        near.waiting[0].asked = Instant::now().checked_sub(GIVE_UP).unwrap();
        let mut done = Vec::new();
        near.poll(&mut done);
        let [(AskId(7), Answer::Failed { why })] = &done[..] else { panic!("{done:?}") };
        assert!(why.contains("does not answer"));
        let_go.send(()).unwrap();
        late.recv().unwrap();
        near.poll(&mut done);
        assert_eq!(done.len(), 1, "CN1: two answers to one ask");
        drop(let_go);
    }
}
