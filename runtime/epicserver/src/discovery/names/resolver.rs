//! The system's resolver, on threads of its own: it waits as long as it likes, and nobody else does.
//!
//! # Invariants
//! - **DN4** Neither asking nor taking answers waits. At most [`QUESTIONS_MAX`] questions wait for a thread.
//! - **DN5** A thread ends once its owner is gone and its last question is answered; nobody waits for that.
//!
//! # Not here
//! When to ask what.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Threads that ask at once.
pub const THREADS_MAX: usize = 4;
/// Questions that may wait.
pub const QUESTIONS_MAX: usize = 64;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// What its answer will be known by.
    pub at: usize,
    /// The name.
    pub host: String,
    /// The port that each address is to have.
    pub port: u16,
}

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What its question was known by.
    pub at: usize,
    /// The addresses, or why there are none.
    pub addresses: Result<Vec<SocketAddr>, String>,
}

/// Somebody who can be asked.
pub trait Resolve: fmt::Debug + Send {
    /// Asks. Says `false` if too many questions wait: then the same is to be asked later.
    fn ask(&mut self, question: Question) -> bool;

    /// An answer, if there is one.
    fn answer(&mut self) -> Option<Answer>;
}

/// The system's resolver.
#[derive(Debug)]
pub struct Resolver {
    questions: Sender<Question>,
    answers: Receiver<Answer>,
}

impl Resolver {
    /// Starts `threads`, but at least one and at most [`THREADS_MAX`].
    ///
    /// # Errors
    /// What the kernel has against another thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (questions, asked) = bounded::<Question>(QUESTIONS_MAX);
        let (answer, answers) = bounded(QUESTIONS_MAX);
        for _ in 0..threads.clamp(1, THREADS_MAX) {
            let (asked, answer) = (asked.clone(), answer.clone());
            let thread = std::thread::Builder::new().name("epic-resolver".to_owned());
            thread.spawn(move || work(&asked, &answer))?;
        }
        Ok(Self { questions, answers })
    }
}

impl Resolve for Resolver {
    fn ask(&mut self, question: Question) -> bool {
        self.questions.try_send(question).is_ok()
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

/// Answers question by question, until nobody asks or listens any more (**DN5**).
fn work(asked: &Receiver<Question>, answer: &Sender<Answer>) {
    while let Ok(question) = asked.recv() {
        if answer.send(resolve(&question)).is_err() {
            return;
        }
    }
}

fn resolve(question: &Question) -> Answer {
    let addresses = (question.host.as_str(), question.port).to_socket_addrs();
    let addresses = addresses.map(Iterator::collect).map_err(|error| error.to_string());
    Answer { at: question.at, addresses }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(resolver: &mut Resolver, host: &str) -> Answer {
        assert!(resolver.ask(Question { at: 3, host: host.to_owned(), port: 7 }));
        resolver.answers.recv().unwrap()
    }

    #[test]
    fn the_system_knows_this_host_and_says_why_it_does_not_know_another() {
        let mut resolver = Resolver::start(2).unwrap();
        let here = answer(&mut resolver, "localhost");
        assert_eq!(here.at, 3);
        let here = here.addresses.unwrap();
        assert!(here.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
        assert!(!here.is_empty());
        assert!(!answer(&mut resolver, "..").addresses.unwrap_err().is_empty());
        assert_eq!(resolver.answer(), None);
    }

    #[test]
    fn dn4_a_resolver_whose_threads_are_busy_refuses_and_waits_for_nothing() {
        let (questions, asked) = bounded(QUESTIONS_MAX);
        let (_busy, answers) = bounded(QUESTIONS_MAX);
        let mut resolver = Resolver { questions, answers };
        let question = || Question { at: 0, host: String::new(), port: 0 };
        assert!((0..QUESTIONS_MAX).all(|_| resolver.ask(question())));
        assert!(!resolver.ask(question()));
        assert!(asked.try_recv().is_ok() && resolver.ask(question()));
    }
}
